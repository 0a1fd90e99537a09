package transfer

import (
	"fmt"
	"math"
	"time"
)

// This file bounds how long a server may answer without progress. A server that hashes or reads a
// directory sends messages meanwhile, so that the client waits. It could send them for ever.

const (
	// hashingPeriod is the time in which a server that hashes must make progress.
	hashingPeriod = 5 * time.Minute
	// queuePeriod is the time in which it must begin: other files may be hashed first.
	queuePeriod = 15 * time.Minute
	// hashingProgress is the progress that a period requires, in bytes of the file: 0.2 MiB/s. A
	// slow disk reads a hundred times as much.
	hashingProgress = 64 << 20
	// batchRate is the rate in bytes per second at which a server must describe the files of a
	// batch, beyond queuePeriod. It counts files only, so a large one may take long.
	batchRate = 1 << 20
	// listingProgress is the number of entries that a hashingPeriod requires of a listing.
	listingProgress = 256
	// maxIdleReplies bounds the messages of a hashingPeriod without enough progress. An honest
	// server sends two a second.
	maxIdleReplies = 20_000
	// longestGap bounds the time between two replies that counts. It is the longest wait of the
	// client for one, so a process that was stopped meanwhile does not blame the server.
	longestGap = time.Minute
)

// A progressLimit ends an exchange without progress. Time is an argument of its method.
type progressLimit struct {
	what string // "hash" or "list": the server's task, for the error
	need int64  // the progress that a period requires

	queued  time.Duration // the period before the first progress; 0 means the same as period
	period  time.Duration
	waited  time.Duration // of this period
	replies int           // of this period
	last    time.Time     // of the previous reply; zero before the first
	base    int64         // the progress at the start of this period
	best    int64         // the progress so far
}

func hashingLimit() progressLimit {
	return progressLimit{what: "hash the file", need: hashingProgress, queued: queuePeriod, period: hashingPeriod}
}

func listingLimit() progressLimit {
	return progressLimit{what: "list the directory", need: listingProgress, period: hashingPeriod}
}

// batchLimit is the limit for files of so many bytes.
func batchLimit(bytes int64) progressLimit {
	seconds := min(bytes/batchRate, int64(math.MaxInt64/time.Second)/2)
	return progressLimit{what: "describe the files", need: math.MaxInt64,
		period: queuePeriod + time.Duration(seconds)*time.Second}
}

// observe records a reply, with the progress of the server's task so far. It returns an error if
// the server has made too little for too long.
func (l *progressLimit) observe(progress int64, now time.Time) error {
	if !l.last.IsZero() {
		l.waited += min(now.Sub(l.last), longestGap)
	}
	l.last = now
	l.replies++
	l.best = max(l.best, progress)
	period := l.period
	if l.best == 0 {
		period = max(period, l.queued)
	}
	switch {
	case l.best-l.base >= l.need:
		l.base, l.waited, l.replies = l.best, 0, 0
	case l.waited >= period, l.replies/maxIdleReplies > int(period/hashingPeriod):
		return fmt.Errorf("the server does not %s: %d messages in %v without enough progress",
			l.what, l.replies, l.waited.Round(time.Second))
	}
	return nil
}
