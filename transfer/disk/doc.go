// Package disk opens directories and files of the operating system. It holds everything about them
// that differs between systems: versions, reserved space, shared blocks, holes, locks and
// durability.
//
// [OpenDir] and [OpenTree] open directories. Names below them must not lead outside, whatever
// links they pass. Everything below a directory is reached through the interfaces [Dir], [TreeDir]
// and [File], which tests and the simulator implement as well. A [File] may also be an [Allocator]
// and a [Cloner]. A [DirCache] keeps directories of a tree open. A [Version] tells the contents of
// a file apart without reading them. [CheckPath] notices that a directory lost its path.
//
// Errors are those of packages os and io/fs, which name the operation and the path. They wrap the
// errors of this package, so that errors.Is finds those.
package disk
