//go:build !linux

package main

import "syscall"

func reportUnread(syscall.RawConn) error    { return nil }
func unread(oob []byte) (n uint32, ok bool) { return 0, false }
