package ext4

import (
	"errors"
	"testing"
)

// An empty value lies nowhere, whatever its entry says.
func TestXattrEmptyValue(t *testing.T) {
	area := make([]byte, 64)
	area[0], area[1], area[xattrEntryLen] = 1, 1, 'a'
	le.PutUint16(area[2:], 999)
	list, err := (&FS{}).parseXattrEntries(area, area, 0)
	if err != nil || len(list) != 1 || list[0].value == nil || len(list[0].value) != 0 {
		t.Errorf("an empty value: %v, %v", list, err)
	}
}

// A journal with features that change how it is to be used is left alone.
func TestJournalReadOnlyFeatures(t *testing.T) {
	b := make([]byte, jsbSize)
	be.PutUint32(b, journalMagic)
	be.PutUint32(b[jsbType:], jSuperV2)
	be.PutUint32(b[jsbBlock:], defaultBlock)
	be.PutUint32(b[jsbROCompat:], 1)
	if err := (&journal{rawSuper: b, blocks: 1024}).parseSuperblock(defaultBlock); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a journal with unknown features: %v", err)
	}
}
