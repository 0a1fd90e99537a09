package transfer

import (
	"time"

	"kwikcp/integrity"
	"kwikcp/kwik"
)

// A Reporter is told how a transfer goes. Its methods are called one at a time and should not block.
type Reporter interface {
	// Hashing says how many bytes of the file the server has hashed, before it can send the manifest.
	Hashing(bytes, total int64)
	// Manifest says what the file is, once its tree is proved up to the root.
	Manifest(m Manifest)
	// Checking says how much of a local file has been looked at, now and then: what is at the target, or the part file of an earlier
	// transfer.
	Checking(bytes, total int64)
	// Resume says how many proved bytes of the manifest's file are in place already. It comes after Manifest, and only if
	// there are any.
	Resume(bytes int64)
	// Retry says that the transfer failed and goes on after a pause.
	Retry(r Retry)
	// Server says that a server was named or that its state changed.
	Server(s ServerStatus)
	// Progress comes ten times a second while bytes arrive, and once at the end.
	Progress(p Progress)
	// BadBlock says that bytes of a server failed their proof. They were dropped.
	BadBlock(server kwik.ServerID, off, length int64)
}

// NoReport is a Reporter that does nothing, to embed or to use.
type NoReport struct{}

func (NoReport) Hashing(int64, int64)                 {}
func (NoReport) Manifest(Manifest)                    {}
func (NoReport) Checking(int64, int64)                {}
func (NoReport) Resume(int64)                         {}
func (NoReport) Retry(Retry)                          {}
func (NoReport) Server(ServerStatus)                  {}
func (NoReport) Progress(Progress)                    {}
func (NoReport) BadBlock(kwik.ServerID, int64, int64) {}

// A Manifest is what a primary says a file is.
type Manifest struct {
	Size  int64          // bytes; proved with the last chunk group
	Root  integrity.Root // the file's BLAKE3 hash
	Group int64          // bytes of a chunk group
	MTime time.Time
	Mode  uint32 // permission bits
}

// A ServerState is a server's part in a transfer.
type ServerState string

const (
	ServerConnecting ServerState = "connecting"
	ServerJoined     ServerState = "joined"  // connected, delivers or may
	ServerStalled    ServerState = "stalled" // owes bytes and sends none
	ServerLost       ServerState = "lost"    // the connection is gone, or it does not serve the file
	ServerBanned     ServerState = "banned"  // sent bytes that failed their proof
)

// A ServerStatus is a server in a transfer.
type ServerStatus struct {
	ID     kwik.ServerID
	Role   kwik.ServerRole
	Addr   string
	State  ServerState
	Reason string        // why it is lost or banned
	Bytes  int64         // proved bytes that it delivered, in all attempts
	Rate   float64       // bytes a second, smoothed
	RTT    time.Duration // 0 if unknown
}

// Progress is how far a transfer is.
type Progress struct {
	Bytes   int64         // proved and in place
	Total   int64         // the file's size
	Rate    float64       // bytes a second, smoothed
	ETA     time.Duration // negative if unknown
	Servers []ServerStatus
	// Of a mirror: how many files are in place, and how many there are as far as is known; Total likewise.
	Files, OfFiles int64
}

// A Result is what became of a transfer. After an error it holds what is known.
type Result struct {
	Path    string // where the file is; empty for a stream
	Bytes   int64  // proved, those of earlier transfers included
	Offset  int64  // of the first of them in the file; 0 but with a Range
	Resumed int64  // those that were here before: of earlier transfers or seeds, or all if UpToDate
	Wasted  int64  // bytes that came in vain: twice, refuted, or of another version
	// UpToDate says that the target was the file already: nothing was fetched.
	UpToDate bool
	Kept     bool // after an error: a part file is left, from which another Get to the same target goes on
	Seconds  float64
	Root     integrity.Root // zero before the manifest came
	Servers  []ServerStatus
}
