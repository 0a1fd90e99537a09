package main

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// A connection arrives whole, in both directions, after the delay and at the rate.
func TestStreamPair(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() { // ends with the listener
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	p := &streamPair{at: netip.MustParseAddrPort("127.0.0.1:0"), target: netip.MustParseAddrPort(echo.Addr().String()),
		delay: 20 * time.Millisecond, rate: 80e6, sessions: 4}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	begun := time.Now()
	c, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := bytes.Repeat([]byte("0123456789"), 100_000) // 0.1 s at the rate
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	took := time.Since(begun)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if took < 170*time.Millisecond { // handshake 40 ms, both ways 40 ms, the rate 100 ms, less what it sends ahead
		t.Errorf("it took only %v", took)
	}
}
