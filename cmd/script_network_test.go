//go:build unix

package cmd

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// This file has the commands of scripts that make ports and relays.

func cmdFreePort(ts *testscript.TestScript, w *world, args []string) error {
	conn, err := listenLoopback()
	if err != nil {
		return err
	}
	ts.Setenv(args[0], strconv.Itoa(conn.LocalAddr().(*net.UDPAddr).Port))
	return conn.Close()
}

func listenLoopback() (*net.UDPConn, error) {
	return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
}

func cmdRelay(ts *testscript.TestScript, w *world, args []string) error {
	target, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	budget, err := parseBytes(args[2])
	if err != nil {
		return err
	}
	r, err := newRelay(target, budget)
	if err != nil {
		return err
	}
	w.relays[args[0]] = r
	ts.Setenv("ADDR_"+args[0], r.addr())
	return nil
}

func cmdHeld(_ *testscript.TestScript, w *world, args []string) error {
	deadline := time.After(patience)
	for _, name := range args {
		select {
		case <-w.relays[name].held:
		case <-deadline:
			return fmt.Errorf("relay %s lets %d more bytes pass", name, w.relays[name].budget.Load())
		}
	}
	return nil
}

func cmdRelease(_ *testscript.TestScript, w *world, args []string) error {
	for _, name := range args {
		w.relays[name].release()
	}
	return nil
}

func cmdBlackhole(ts *testscript.TestScript, _ *world, args []string) error {
	conn, err := listenLoopback()
	if err != nil {
		return err
	}
	ts.Defer(func() { conn.Close() })
	ts.Setenv("ADDR_"+args[0], conn.LocalAddr().String())
	return nil
}
