package ext4_test

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/volehq/vole/ext4"
)

// checkImage returns what Check reports of an image: the first hundred problems.
func checkImage(image string) ([]ext4.Problem, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return problems(f, 0)
}

func problems(dev ext4.Device, size int64) (list []ext4.Problem, err error) {
	err = ext4.Check(context.Background(), dev, ext4.CheckOptions{Size: size}, func(p ext4.Problem) error {
		if list = append(list, p); len(list) == 100 {
			return io.EOF
		}
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return list, err
}

// What report returns ends a check, and so does the context.
func TestCheckEnds(t *testing.T) {
	f, err := os.Open(newImage(t, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := ext4.Check(ctx, f, ext4.CheckOptions{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
