package transfer

import (
	"time"

	"kwikcp/integrity"
	"kwikcp/kwik"
)

// A Reporter receives the progress of a transfer. Its methods are called one at a time and should
// not block.
type Reporter interface {
	// Hashing reports how many bytes of the file the server has hashed. It must hash all of them
	// to know the root.
	Hashing(bytes, total int64)
	// Manifest is called once the tree is verified against the root.
	Manifest(m Manifest)
	// Checking reports from time to time how much of a local file has been compared: the target,
	// or the part file of an earlier transfer.
	Checking(bytes, total int64)
	// Resume reports how many verified bytes are in place before anything is fetched. It is
	// called after Manifest, and only if there are any.
	Resume(bytes int64)
	// Retry is called when an attempt failed and another follows after a pause.
	Retry(r Retry)
	// Waiting is called when nothing has arrived for three seconds, then once a second, and when
	// something arrives again. The transfer then waits for the network, not for this machine.
	Waiting(w Waiting)
	// Server is called for each new server and whenever the state of one changes.
	Server(s ServerStatus)
	// Progress is called ten times a second while bytes arrive, and once at the end.
	Progress(p Progress)
	// BadBlock is called when bytes of a server failed verification. They were discarded.
	BadBlock(server kwik.ServerID, off, length int64)
}

// NoReport is a MirrorReporter, and so a Reporter, that does nothing. Types embed it to implement
// only some methods.
type NoReport struct{}

func (NoReport) Hashing(int64, int64)                 {}
func (NoReport) Manifest(Manifest)                    {}
func (NoReport) Checking(int64, int64)                {}
func (NoReport) Resume(int64)                         {}
func (NoReport) Retry(Retry)                          {}
func (NoReport) Waiting(Waiting)                      {}
func (NoReport) Server(ServerStatus)                  {}
func (NoReport) Progress(Progress)                    {}
func (NoReport) BadBlock(kwik.ServerID, int64, int64) {}
func (NoReport) File(FileReport)                      {}

// A Manifest describes a file of a primary.
type Manifest struct {
	Size  int64          // bytes; verified with the last chunk group
	Root  integrity.Root // the file's BLAKE3 hash
	Group int64          // bytes of a chunk group
	MTime time.Time
	Mode  uint32 // permission bits
}

// A ServerState is a server's part in a transfer.
type ServerState string

const (
	ServerConnecting ServerState = "connecting"
	ServerJoined     ServerState = "joined"  // connected; delivers, or is ready to
	ServerStalled    ServerState = "stalled" // bytes were requested and none arrive
	ServerLost       ServerState = "lost"    // the connection is gone, or it does not serve the file
	ServerBanned     ServerState = "banned"  // sent bytes that failed verification
)

// A ServerStatus is a server in a transfer.
type ServerStatus struct {
	ID     kwik.ServerID
	Role   kwik.ServerRole
	Addr   string
	State  ServerState
	Reason string        // of ServerLost and ServerBanned
	Bytes  int64         // verified bytes that it delivered, in all attempts
	Rate   float64       // bytes a second, smoothed
	RTT    time.Duration // 0 if unknown
}

// Progress is a snapshot of a transfer.
type Progress struct {
	Bytes   int64         // verified and in place
	Total   int64         // the file's size
	Rate    float64       // bytes a second, smoothed
	ETA     time.Duration // negative if unknown
	Servers []ServerStatus
	// Files and OfFiles count the files of a mirror: those in place, and all that the listing has
	// named so far. Total grows with the listing, too.
	Files, OfFiles int64
}

// A Result is the outcome of a transfer. After an error it holds the values known so far.
type Result struct {
	Path    string // of the file; empty with an Output
	Bytes   int64  // verified, including those of earlier transfers
	Offset  int64  // of the first of them in the file; 0 without a Range
	Resumed int64  // verified bytes that were local already: from earlier transfers or seeds, or all if UpToDate
	Holes   int64  // verified bytes that are zeros in holes of the source and were not fetched
	Wasted  int64  // bytes discarded: received twice, rejected, or of another version
	// UpToDate reports that the target was identical, so nothing was fetched.
	UpToDate bool
	Kept     bool // after an error: there is a part file from which another Get to the same target resumes
	Seconds  float64
	Root     integrity.Root // zero until the manifest arrives, and without a primary
	Proof    Proof          // empty until it is known
	Servers  []ServerStatus
	// Checksums are those of GetOptions, once they are proved.
	Checksums []Checksum
	// Warnings tell what the target's file system could not do, one for each kind.
	Warnings []Warning
}
