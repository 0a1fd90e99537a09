package disk

import "time"

// This file decides whether a version can be believed. A file that is changed twice within the
// granularity of its times has the same times after both changes. Content that was read in
// between is then taken for the content of the version ("racily clean" in git).

const (
	// coarseGranularity is that of times in whole, even seconds. FAT has no finer ones.
	coarseGranularity = 2 * time.Second
	// wholeGranularity is that of times in whole seconds, as ext3, HFS+ and SFTP have them.
	wholeGranularity = time.Second
	// racyMargin is what a time may differ from this process's clock. Systems set times from a
	// clock that ticks every 1 to 10 ms, and file servers use their own clocks.
	racyMargin = time.Second
)

// changed returns the time of the last change, in nanoseconds since the Unix epoch. Programs set
// MTime as they like, but not CTime.
func (v Version) changed() int64 {
	if v.CTime != 0 {
		return v.CTime
	}
	return v.MTime
}

// Granularity returns the granularity of the times of a version, as far as the times themselves
// tell it. It is 0 if they have fractions of a second.
func (v Version) Granularity() time.Duration {
	at := v.changed()
	switch {
	case at%int64(time.Second) != 0:
		return 0
	case at%int64(2*time.Second) != 0:
		return wholeGranularity
	}
	return coarseGranularity
}

// IsRacy reports whether another write, at a time of the wall clock or later, may leave the same
// times with another content. That is so shortly after a change. It is also so before the change
// if the granularity is coarse: the clock was set back, and will pass the same second again. It is
// never so if a store tells the version.
func (v Version) IsRacy(now time.Time) bool {
	if v.IsTagged() {
		return false
	}
	changed := time.Unix(0, v.changed())
	window := v.Granularity() + racyMargin
	if v.Granularity() == 0 && changed.Sub(now) > window {
		return false // no later change gets the same nanosecond
	}
	return now.Sub(changed) < window
}
