//go:build unix

package main

import (
	"strings"
	"testing"
	"time"
)

// The judges must see what they are there to see.

const sec = int64(time.Second)

func call(op, vol, id, err string, start, end int64) record {
	return record{Op: op, Vol: vol, ID: id, Err: err, Done: true, Start: start, End: end, Limit: int64(patience)}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name    string
		records []record
		want    string // in the error; "": none
	}{
		{"in turn", []record{
			call("create", "a", "1", "", 0, 1), call("remove", "a", "1", "", 2, 3), call("create", "a", "2", "", 2, 4),
		}, ""},
		{"two at once", []record{
			call("create", "a", "1", "", 0, 1), call("create", "a", "2", "", 2, 4),
		}, "a was 1 and 2"},
		{"loser of a create", []record{
			call("create", "a", "1", "", 0, 1), call("create", "a", "", "exists", 0, 4),
		}, ""},
		{"renamed onto another", []record{
			call("create", "a", "1", "", 0, 1), call("create", "b", "2", "", 0, 1),
			{Op: "rename", Vol: "a", To: "b", ID: "1", Start: 2, End: 3},
		}, "b was"},
		{"two renames at once, the first one last", []record{
			call("create", "a", "1", "", 0, 1), {Op: "rename", Vol: "a", To: "b", ID: "1", Start: 2, End: 9},
			{Op: "rename", Vol: "a", To: "c", ID: "1", Start: 3, End: 5}, call("create", "c", "2", "", 10, 11),
		}, ""},
		{"removed twice", []record{
			call("create", "a", "1", "", 0, 1), call("remove", "a", "1", "", 2, 3), call("remove", "a", "1", "", 2, 4),
		}, "two calls removed"},
		{"ghost", []record{
			call("create", "a", "1", "", 0, 1), call("remove", "a", "1", "", 2, 3), call("get", "a", "1", "", 4, 5),
		}, "found what had been removed"},
		{"strange error", []record{call("create", "a", "", "other", 0, 1)}, "no loser gets"},
		{"too late", []record{call("get", "a", "1", "timeout", 0, 20*sec)}, "longer than its context"},
		{"starved", []record{call("get", "a", "1", "timeout", 0, 10*sec)}, "nothing holds a lock"},
		{"duel without winner", []record{
			call("duel-create", "duel-1", "", "exists", 0, 1), call("duel-remove", "duel-1", "", "not-found", 2, 3),
		}, "0 of 1 won the creation"},
		{"duel with two removers", []record{
			call("duel-create", "duel-1", "1", "", 0, 1),
			call("duel-remove", "duel-1", "", "", 2, 3), call("duel-remove", "duel-1", "", "", 2, 3),
		}, "2 of 2 won the removal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := newJudge(c.records).judgeAll()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("judge says %v, want %q", err, c.want)
			}
		})
	}
}

func TestHistory(t *testing.T) {
	done := func(r record) record { r.Done = true; return r }
	create := record{Op: "create", Vol: "a", ID: "1", Tag: 7}
	write := record{Op: "write", Vol: "a", ID: "1", Path: "f", Tag: 8}
	made := model{"a": {"1", "7", map[string]int64{}}}
	written := model{"a": {"1", "7", map[string]int64{"f": 8}}}
	for _, c := range []struct {
		name    string
		records []record
		have    model
		want    string
	}{
		{"acknowledged", []record{create, done(create), write, done(write)}, written, ""},
		{"write lost", []record{create, done(create), write, done(write)}, made, "must hold"},
		{"volume lost", []record{create, done(create)}, model{}, "is lost"},
		{"pending, done", []record{create, done(create), write}, written, ""},
		{"pending, not done", []record{create, done(create), write}, made, ""},
		{"pending create", []record{create}, made, ""},
		{"pending create, undone", []record{create}, model{}, ""},
		{"pending removal tore files off", []record{create, done(create), write, done(write), {Op: "remove", Vol: "a", ID: "1"}}, made, "pending"},
		{"resurrected", []record{create, done(create), done(record{Op: "remove", Vol: "a", ID: "1"})}, made, "must not be"},
		{"failed", []record{create, {Op: "create", Vol: "a", Done: true, Err: "exists", Text: "there"}}, made, "failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHistory()
			var err error
			for _, r := range c.records {
				if err == nil {
					err = h.addRecord(r)
				}
			}
			if err == nil {
				err = h.settlePending(c.have)
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestContent(t *testing.T) {
	for tag := range int64(100) {
		data := contentOfTag(tag)
		if got, err := tagOfContent(data); err != nil || got != tag {
			t.Fatalf("tag %d reads as %d, %v", tag, got, err)
		}
		if _, err := tagOfContent(data[:len(data)-1]); err == nil {
			t.Fatalf("torn content of tag %d is not noticed", tag)
		}
	}
}
