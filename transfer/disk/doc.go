// Package disk holds everything about directories and files that differs between systems: opening without following links,
// versions, reserved space, shared blocks, holes, locks and syncing.
//
// [Dir], [TreeDir] and [File] are the seams at which tests and the simulator put file systems of their own. [OpenDir] and
// [OpenTree] open directories of the operating system.
package disk
