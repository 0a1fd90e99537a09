package main

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// reportUnread lets the system report with each datagram how many it has dropped because the
// socket's buffer was full.
func reportUnread(conn syscall.RawConn) error {
	var refused error
	err := conn.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	})
	if err != nil {
		return err
	}
	return refused
}

// unread returns how many datagrams the socket had lost before the one with the control data
// oob. It returns false if oob has no count, as before the first loss.
func unread(oob []byte) (uint32, bool) {
	for len(oob) > 0 {
		header, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0, false
		}
		if header.Level == unix.SOL_SOCKET && header.Type == unix.SO_RXQ_OVFL && len(body) >= 4 {
			return binary.NativeEndian.Uint32(body), true
		}
		oob = rest
	}
	return 0, false
}
