package main

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	pairs, err := parse(strings.Fields("-rate 200,50 -delay 20 -loss 0.001 -loss-down-only -queue 0.5 127.0.0.1:1=127.0.0.1:2 " +
		"[::ffff:127.0.0.1]:3=[::1]:4 127.0.0.1:5=127.0.0.1:6"))
	if err != nil {
		t.Fatal(err)
	}
	want := linkConfig{rate: 200e6, overhead: 28, queue: 500 * us, delay: 20 * time.Millisecond, loss: 0.001}
	if len(pairs) != 3 || pairs[0].down != want {
		t.Errorf("%d pairs, the first one down %+v, want %+v", len(pairs), pairs[0].down, want)
	}
	if want.loss = 0; pairs[0].up != want {
		t.Errorf("up %+v, want %+v", pairs[0].up, want)
	}
	if pairs[1].down.rate != 50e6 || pairs[2].down.rate != 50e6 || pairs[2].down.delay != want.delay {
		t.Error("the last of a list does not count for the rest")
	}
	if pairs[1].listen.String() != "127.0.0.1:3" || pairs[1].target.String() != "[::1]:4" {
		t.Errorf("the second pair is %v=%v", pairs[1].listen, pairs[1].target)
	}
	if pairs[0].seed == pairs[1].seed {
		t.Error("two pairs share a generator")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "127.0.0.1:1", "127.0.0.1:1=", "=127.0.0.1:1", "localhost:1=127.0.0.1:1", "-loss 1.1 127.0.0.1:1=127.0.0.1:2",
		"-loss -0.1 127.0.0.1:1=127.0.0.1:2", "-rate NaN 127.0.0.1:1=127.0.0.1:2", "-rate 1, 127.0.0.1:1=127.0.0.1:2",
		"-delay 1e10 127.0.0.1:1=127.0.0.1:2", "-sessions 0 127.0.0.1:1=127.0.0.1:2", "-idle 0s 127.0.0.1:1=127.0.0.1:2",
		"-overhead -1 127.0.0.1:1=127.0.0.1:2",
	} {
		if _, err := parse(strings.Fields(line)); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}
