package wire

import (
	"io/fs"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// SpecialModes lists the bits of Metadata.special_mode.
var SpecialModes = []struct {
	Mode fs.FileMode
	Bit  uint32
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// SpecialKinds are the kinds of devices, FIFOs and sockets by the type bits of their modes.
var SpecialKinds = map[fs.FileMode]transferpb.Special_Kind{
	fs.ModeNamedPipe:                  transferpb.Special_FIFO,
	fs.ModeSocket:                     transferpb.Special_SOCKET,
	fs.ModeDevice | fs.ModeCharDevice: transferpb.Special_CHAR_DEVICE,
	fs.ModeDevice:                     transferpb.Special_BLOCK_DEVICE,
}
