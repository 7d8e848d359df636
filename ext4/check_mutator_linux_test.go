package ext4

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
)

// mutation is damage done to an image.
type mutation struct {
	target target
	was    []byte
	now    []byte
	sealed bool
	also   *mutation
}

// writeMutation writes the damage, or what was there before.
func (m *mutation) writeMutation(f io.WriterAt, damage bool) error {
	b := m.was
	if damage {
		b = m.now
	}
	_, err := f.WriteAt(b, m.target.at)
	if err == nil && m.also != nil {
		err = m.also.writeMutation(f, damage)
	}
	return err
}

func (m *mutation) String() string {
	s := fmt.Sprintf("%s at %#x (sealed: %t):", m.target.what, m.target.at, m.sealed)
	for k := range m.was {
		if m.was[k] != m.now[k] {
			s += fmt.Sprintf(" +%#x %02x->%02x", k, m.was[k], m.now[k])
		}
	}
	return s
}

// mutator damages images.
type mutator struct {
	r    *rand.Rand
	kind map[string][]target
	what []string
}

func newMutator(seed uint64, list []target) *mutator {
	m := &mutator{r: rand.New(rand.NewPCG(seed, 1)), kind: map[string][]target{}}
	for _, t := range list {
		if m.kind[t.what] == nil {
			m.what = append(m.what, t.what)
		}
		m.kind[t.what] = append(m.kind[t.what], t)
	}
	slices.Sort(m.what)
	return m
}

// nextMutation makes up damage of a target, of each kind as often as of the others.
func (m *mutator) nextMutation(f io.ReaderAt) (*mutation, error) {
	list := m.kind[m.what[m.r.IntN(len(m.what))]]
	t := list[m.r.IntN(len(list))]
	d := &mutation{target: t, was: make([]byte, t.n), sealed: t.seal != nil && m.r.IntN(4) > 0}
	if err := readFull(f, d.was, t.at); err != nil {
		return d, err
	}
	d.now = slices.Clone(d.was)
	for range 1 + m.r.IntN(2)*m.r.IntN(4) {
		m.changeBytes(d.now)
	}
	if !d.sealed {
		return d, nil
	}
	t.seal(d.now)
	if t.also != nil {
		o := t.also(d.now)
		d.also = &mutation{target: o, was: make([]byte, o.n), now: o.now}
		return d, readFull(f, d.also.was, o.at)
	}
	return d, nil
}

// changeBytes changes something: most often where there is something.
func (m *mutator) changeBytes(b []byte) {
	at := m.r.IntN(len(b))
	for range 3 {
		if b[at] == 0 {
			at = m.r.IntN(len(b))
		}
	}
	switch word := b[at&^3:][:4]; m.r.IntN(6) {
	case 0:
		b[at] ^= 1 << m.r.IntN(8)
	case 1:
		b[at] = byte(m.r.Uint32())
	case 2:
		le.PutUint32(word, le.Uint32(word)+uint32(m.r.IntN(5))-2)
	case 3:
		half := b[at&^1:][:2]
		le.PutUint16(half, []uint16{0, 1, 0xffff, 0x8000, le.Uint16(half) + 1, le.Uint16(half) - 4}[m.r.IntN(6)])
	case 4:
		le.PutUint32(word, []uint32{0, 1, 2, 11, ^uint32(0), 1 << 31, m.r.Uint32N(1 << 14)}[m.r.IntN(7)])
	case 5:
		from := m.r.IntN(len(b)) &^ 3
		copy(b[at&^3:], slices.Clone(b[from:min(len(b), from+4<<m.r.IntN(4))]))
	}
}
