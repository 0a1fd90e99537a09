package serve

import (
	"bytes"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A trapDir panics when a certain name is opened, read or listed.
type trapDir struct{ disk.TreeDir }

func (d trapDir) Open(name string) (disk.File, error) {
	if name == "open" {
		panic("a bug")
	}
	f, err := d.TreeDir.Open(name)
	if name == "read" {
		f = trapFile{f}
	}
	return f, err
}

func (d trapDir) At(name string) (disk.TreeDir, error) {
	if name == "list" {
		panic("a bug")
	}
	at, err := d.TreeDir.At(name)
	return trapDir{at}, err
}

type trapFile struct{ disk.File }

func (trapFile) ReadAt([]byte, int64) (int, error) { panic("a bug") }

// A panic in a request ends its session, or fails the request if the work is shared. The server
// lives, and answers other sessions.
func TestAttackPanicInRequest(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"open", "read", "file"} {
		transfertest.Put(t, root+"/"+name, strings.Repeat(name, 1000))
	}
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	transfertest.OnNet(t, func(w *transfertest.Net) {
		s := NewServer(source.Local(trapDir{tree}), w.Logger())
		var panics atomic.Int32
		l := w.Start(&kwik.ServerConfig{OpenContent: s.OpenContent, OnPanic: func(_ net.Addr, err *kwik.PanicError) {
			if err.Text() != "a bug" || !strings.Contains(err.Frames[0], "trapDir") {
				w.T.Error(err)
			}
			panics.Add(1)
		}})
		w.Go(func() {
			s.Serve(w.Ctx, l)
			s.Close()
		})
		honest := w.Dial()
		defer honest.CloseWithError(0, "")
		var list bytes.Buffer
		wire.WriteMessage(&list, &transferpb.Request{
			Version: wire.ProtocolVersion, Path: []byte("list"), List: &transferpb.ListRequest{},
		})
		for i, request := range [][]byte{transfertest.Request(wire.ProtocolVersion, "open"), list.Bytes()} {
			session := w.Dial()
			if _, err := w.Ask(session, request, true); err == nil {
				w.T.Errorf("request %d is answered", i)
			}
			<-session.Context().Done()
			session.CloseWithError(0, "")
			if n := panics.Load(); n != int32(i)+1 {
				w.T.Errorf("%d panics after %d", n, i+1)
			}
		}
		replies, err := w.Ask(honest, transfertest.Request(wire.ProtocolVersion, "read"), true)
		if err != nil || len(replies) == 0 || replies[len(replies)-1].GetFailure().GetMessage() != "the server failed" {
			w.T.Errorf("a file that cannot be hashed: %v, %v", replies, err)
		}
		if log := w.Log.String(); !strings.Contains(log, "hashing failed") || !strings.Contains(log, "trapFile") {
			w.T.Errorf("the log is %s", log)
		}
		time.Sleep(time.Second)
		replies, err = w.Ask(honest, transfertest.Request(wire.ProtocolVersion, "file"), true)
		if err != nil || len(replies) == 0 || replies[0].GetManifest() == nil {
			w.T.Errorf("an honest request: %v, %v", replies, err)
		}
	})
}
