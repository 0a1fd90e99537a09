package transfer

// looksUpToDate reports whether the file in place has the size and time of the listing, and no
// part file beside it. A file with checksums is always read.
func (f *mirrorFile) looksUpToDate() bool {
	if f.resumes || f.detach || f.local == nil || len(f.checksums) > 0 {
		return false
	}
	return f.local.Size() == f.entry.Size && f.local.ModTime().Equal(f.entry.MTime)
}
