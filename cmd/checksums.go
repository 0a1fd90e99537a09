package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"kwikcp/internal/checksum"
	"kwikcp/transfer"
)

// This file has the options that require hashes of files: --checksum and --checksum-file.

// parseChecksum reads the value of --checksum.
func parseChecksum(text string) (transfer.Checksum, error) {
	c, err := transfer.ParseChecksum(text)
	if err != nil || !strings.Contains(text, "=") {
		return c, usagef(adviseChecksum, "--checksum %q is not %s", text, checksum.Forms())
	}
	return c, nil
}

// requireHashes takes the values of --checksum. A BLAKE3 hash goes into the URL of the file;
// others are returned.
func requireHashes(u *transfer.URL, values repeatedValue) (others []transfer.Checksum, err error) {
	inURL := u.Root != nil
	for _, text := range values.list {
		c, err := parseChecksum(text)
		if err != nil {
			return nil, err
		}
		root, ok := c.Root()
		switch {
		case !ok:
			others = append(others, c)
		case u.Root == nil || *u.Root == root:
			u.Root = &root
		case inURL:
			return nil, usagef(adviseOneChecksum, "--checksum and the URL's #b3= differ")
		default:
			return nil, usagef(adviseOneChecksum, "two --checksum blake3= differ")
		}
	}
	return others, nil
}

// checkRange reports that a hash of a whole file does not go with --range.
func (o *getOptions) checkRange() error {
	switch {
	case o.byteRange == "":
		return nil
	case o.checksumFile != "":
		return usagef(adviseRangeHash, "--range fetches a part, and --checksum-file has hashes of whole files")
	}
	for _, text := range o.checksums.list {
		c, err := transfer.ParseChecksum(text)
		if _, isRoot := c.Root(); err == nil && !isRoot {
			return usagef(adviseRangeHash, "--range fetches a part, and --checksum names a hash of the whole file")
		}
	}
	return nil
}

// A checksumFile is the file of --checksum-file.
type checksumFile struct {
	name string // as given
	list *checksum.List
}

// maxChecksumFile bounds a checksum file that a server sends, in bytes.
const maxChecksumFile = 64 << 20

// readChecksums reads the file of --checksum-file, if there is one, unless it has been read.
func (f *fetcher) readChecksums(ctx context.Context) error {
	name := f.checksumsFrom
	if name == "" || f.checksums != nil {
		return nil
	}
	op := fmt.Sprintf("read the checksums %q", withoutSecret(name))
	content, err := f.openChecksums(ctx, name)
	if _, ok := errors.AsType[*transfer.Error](err); ok || isUsage(err) {
		return err
	}
	if err != nil {
		return localFileError(op, err)
	}
	defer content.Close()
	list, err := checksum.ReadList(content)
	if err != nil {
		if _, ok := errors.AsType[*os.PathError](err); ok {
			return localFileError(op, err)
		}
		return usagef(adviseChecksumFile, "--checksum-file %q is of no use: %w", withoutSecret(name), err)
	}
	f.checksums = &checksumFile{withoutSecret(name), list}
	return nil
}

func isUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// openChecksums opens a checksum file. It is local, stdin, or on a server.
func (f *fetcher) openChecksums(ctx context.Context, name string) (io.ReadCloser, error) {
	switch {
	case name == "-":
		return io.NopCloser(os.Stdin), nil
	case !strings.HasPrefix(name, "kwik:"):
		return os.Open(name)
	}
	u, err := transfer.ParseURL(name)
	if err != nil {
		return nil, usagef(adviseChecksumFile, "--checksum-file %q is not the URL of a file: %w",
			withoutSecret(name), err)
	}
	f.tokens.bindTo(name)
	config, err := f.config(u)
	if err != nil {
		return nil, err
	}
	content := &boundedBuffer{limit: maxChecksumFile}
	options := transfer.GetOptions{
		URL: u, TLS: f.tls(u, config), Output: content, ConnectTimeout: f.connectTimeout, KWIK: config,
		Retries: f.retries, RetryDelay: f.retryDelay, MaxTime: f.maxTime, RetryMaxTime: f.retryMaxTime,
		StallTimeout: f.stallTimeout,
	}
	_, err = transfer.Get(ctx, options, nil)
	if err != nil && f.policy.accepted(err) {
		content.Reset()
		_, err = transfer.Get(ctx, options, nil)
	}
	return io.NopCloser(content), err
}

// A boundedBuffer is a buffer that takes no more than limit bytes.
type boundedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("it is longer than %d bytes", b.limit)
	}
	return b.Buffer.Write(p)
}

// checksumsOf returns the checksums of sums.
func checksumsOf(sums []checksum.Sum) (all []transfer.Checksum) {
	for _, s := range sums {
		if c, err := transfer.ParseChecksum(s.String()); err == nil { // always
			all = append(all, c)
		}
	}
	return all
}

// ofFile returns the checksums of the file with a path on the server; none if the list does not
// name it.
func (f *checksumFile) ofFile(path string) ([]transfer.Checksum, error) {
	if f == nil {
		return nil, nil
	}
	sums, err := f.list.OfFile(path)
	if err != nil {
		return nil, usagef(adviseChecksumFile, "--checksum-file %q: %w", f.name, err)
	}
	return checksumsOf(sums), nil
}

// notNamed is the error of a single file that --checksum-file does not name.
func (f *checksumFile) notNamed(path string) error {
	text := fmt.Sprintf("--checksum-file %q does not name %q", f.name, path)
	if n := f.list.Malformed; n > 0 {
		text += fmt.Sprintf(", and %s malformed", counted(n, "of its lines is", "of its lines are"))
	}
	return usagef(adviseChecksumFile, "%s", text)
}

// warnOfMalformed tells how many lines could not be read. The files of those lines are fetched
// without a proof.
func (f *checksumFile) warnOfMalformed(t *terminal) {
	if f != nil && f.list.Malformed > 0 {
		t.warningf("--checksum-file %q: %s malformed", f.name, counted(f.list.Malformed, "line is", "lines are"))
	}
}

// A treeChecksums has the checksums for the files of a tree, and notes which were used.
type treeChecksums struct {
	file  *checksumFile
	above string // the path of the tree on the server
	seen  map[string]bool
	// prefix is where the names of the list are relative to, if that is a directory above the tree.
	prefix string
}

func newTreeChecksums(f *checksumFile, above string) *treeChecksums {
	return &treeChecksums{file: f, above: above, seen: make(map[string]bool)}
}

// of returns the checksums of a file below the tree. It implements MirrorOptions.Checksums.
func (c *treeChecksums) of(path string) []transfer.Checksum {
	name, sums := c.file.list.InTree(c.above, path)
	if name != "" {
		c.seen[name] = true
		c.prefix = strings.TrimSuffix(name, path)
	}
	return checksumsOf(sums)
}

// missing returns an error if a file that the list names was not in the tree. Those that a filter
// excludes do not count, nor those that are outside the tree.
func (c *treeChecksums) missing(chosen selection) error {
	var names []string
	for name := range c.file.list.Names() {
		path, inTree := strings.CutPrefix(name, c.prefix)
		if inTree && !c.seen[name] && chosen.wants(path) {
			names = append(names, path)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	err := fmt.Errorf("%s not in the directory on the server, such as %q",
		counted(int64(len(names)), "file that it names is", "files that it names are"), names[0])
	op := fmt.Sprintf("check %q", c.file.name)
	return advisedError{adviseChecksumTree, &transfer.Error{Kind: transfer.KindNotFound, Op: op, Err: err}}
}

// wants reports whether a file is selected.
func (s selection) wants(path string) bool { return s.paths.Selects(s.filter, path, false) }
