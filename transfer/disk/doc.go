// Package disk opens directories and files of the operating system, and holds everything about them that differs
// between systems: names that must not lead out of a directory, versions of files, reserved space, shared blocks,
// holes, locks and durability.
//
// [OpenDir] and [OpenTree] open directories. Everything below them is reached through the interfaces [Dir], [TreeDir]
// and [File], of which tests and the simulator have implementations of their own. A [File] may also be an [Allocator]
// and a [Cloner]. A [DirCache] keeps directories of a tree open. A [Version] tells the contents of a file apart without
// reading them.
//
// Errors are those of packages os and io/fs, which name the operation and the path. They wrap the errors of this
// package, so that errors.Is finds those.
package disk
