//go:build !unix

package procs

func use() (usage, bool) { return usage{}, false }
