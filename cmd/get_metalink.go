package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"kwikcp/internal/addrclass"
	"kwikcp/internal/escape"
	"kwikcp/internal/metalink"
	"kwikcp/internal/webfile"
	"kwikcp/transfer"
)

// This file is get --metalink: files that a Metalink describes, with a primary or without one.

// A metalinkFile is a file of a Metalink as a transfer takes it.
type metalinkFile struct {
	name    string // a relative path
	web     transfer.WebFile
	require []transfer.Checksum
}

// runGetMetalink fetches the files of a Metalink.
func runGetMetalink(ctx context.Context, t *terminal, o *getOptions, args []string) error {
	hasPrimary := len(args) > 0 && strings.HasPrefix(strings.ToLower(args[0]), "kwik:")
	if hasPrimary {
		return runGetFile(ctx, t, o, args)
	}
	if len(args) > 1 {
		return usagef(adviseMetalink, "--metalink takes one destination, not also %q", args[1])
	}
	each, err := parseFileOptions(t, o)
	if err != nil {
		return err
	}
	switch {
	case o.byteRange != "":
		return usagef(adviseMetalink, "--range needs the URL of a KWIK server")
	case o.jobs.int < 1 || o.jobs.int > maxJobs:
		return usagef(adviseJobs, "--jobs %d is not 1 to %d", o.jobs.int, maxJobs)
	}
	files, err := each.readMetalink(ctx, o.metalink)
	if err != nil {
		return err
	}
	if len(files) > 1 {
		return runGetFiles(ctx, t, o, files, argument(args, 0))
	}
	return fetchOne(ctx, t, o, o.metalink, func() (fileGet, error) {
		g := each
		var err error
		if g.require, err = requireHashes(&g.url, o.checksums); err == nil {
			err = g.describe(files[0], argument(args, 0))
		}
		if err == nil && g.stdout && o.json {
			err = usagef(adviseName, "--json and - both write to stdout")
		}
		return g, err
	})
}

// runGetFiles fetches several files of a Metalink into a directory.
func runGetFiles(ctx context.Context, t *terminal, o *getOptions, files []metalinkFile, dir string) error {
	if dir == "-" || len(o.checksums.list) > 0 || o.seed != "" {
		const format = "the Metalink has %d files; -, --checksum and --seed are for a single file"
		return usagef(adviseMetalink, format, len(files))
	}
	return runGetList(ctx, t, o, func(ctx context.Context, l *listGet, lines chan<- listLine) error {
		l.each.makeDirs = true
		for i := range files {
			name := filepath.FromSlash(files[i].name)
			line := listLine{number: i + 1, file: &files[i], target: filepath.Join(dir, name)}
			if !filepath.IsLocal(name) { // such as "CON" on Windows
				line.err = usagef(adviseMetalink, "%q is not a valid file name here", files[i].name)
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
}

// describe sets the file to fetch from mirrors alone, and the target.
func (g *fileGet) describe(f metalinkFile, target string) (err error) {
	g.metalinkName, g.webFile = f.name, f.web
	g.require = append(g.require, f.require...)
	switch {
	case g.url.Root != nil:
		return usagef(adviseMetalink, "--checksum blake3 needs the URL of a KWIK server")
	case len(f.web.Mirrors) == 0:
		return usagef(adviseMetalink, "the Metalink has no https URL of %q", f.name)
	case !f.web.HasSize:
		return usagef(adviseMetalink, "the Metalink does not tell the size of %q", f.name)
	case f.web.PieceSize == 0 && len(g.require) == 0 && g.checksumsFrom == "":
		return usagef(adviseMetalink, "the Metalink has no sha-256 hash of %q", f.name)
	case f.web.PieceSize == 0 && (g.reuse || g.seed != ""):
		return usagef(adviseMetalink, "--reuse and --seed need hashes of pieces, which the Metalink does not have")
	case target == "":
		g.target = g.place(path.Base(f.name))
		return nil
	case target != "-":
		target = g.place(target)
	}
	g.target, g.stdout, err = targetOf(target, f.name, g.makesDirs())
	return err
}

// describeWith adds the mirrors and hashes of a Metalink to a file of a primary.
func (g *fileGet) describeWith(ctx context.Context, name string) error {
	files, err := g.readMetalink(ctx, name)
	if err != nil {
		return err
	}
	for _, f := range files {
		isNamed := f.name == g.url.Path || path.Base(f.name) == path.Base(g.url.Path)
		if len(files) == 1 || isNamed {
			g.webFile = f.web
			g.require = append(g.require, f.require...)
			return nil
		}
	}
	const format = "none of the %d files of the Metalink is called %q"
	return usagef(adviseMetalink, format, len(files), path.Base(g.url.Path))
}

// readMetalink reads the files that a Metalink describes. name is that of a file, - for stdin, or
// an https URL.
func (f *fetcher) readMetalink(ctx context.Context, name string) (files []metalinkFile, err error) {
	op := fmt.Sprintf("read the Metalink %q", withoutQuery(name))
	content, mayConnect, err := f.openMetalink(ctx, op, name)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	parsed, err := metalink.Parse(content)
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return nil, localFileError(op, err)
	}
	if err != nil {
		return nil, usagef(adviseMetalink, "the Metalink %q is of no use: %w", withoutQuery(name), err)
	}
	for _, file := range parsed {
		described := metalinkFile{name: file.Name, web: transfer.WebFile{IsForeign: true, MayConnect: mayConnect,
			HasSize: file.Size >= 0, Size: max(file.Size, 0)}}
		for i, url := range file.URLs {
			m := transfer.WebMirror{Template: strings.ReplaceAll(url, "{path}", "%7Bpath%7D"), Priority: i}
			if m.Check(f.web.AllowHTTP) == nil && len(described.web.Mirrors) < transfer.MaxWebMirrors {
				described.web.Mirrors = append(described.web.Mirrors, m)
			}
		}
		if file.SHA256 != nil {
			sum, err := transfer.ParseChecksum(fmt.Sprintf("sha256=%x", file.SHA256))
			if err != nil {
				return nil, err
			}
			described.require = append(described.require, sum)
		}
		if 0 < file.PieceLength && file.PieceLength <= transfer.MaxPiece {
			described.web.PieceSize = file.PieceLength
			for _, hash := range file.Pieces {
				described.web.Pieces = append(described.web.Pieces, hash[:]...)
			}
		}
		if len(file.Ignored) > 0 && file.SHA256 == nil && file.PieceLength == 0 {
			f.t.warningf("hashes of %q that are not sha-256 are not used: %s", file.Name,
				escape.Line(strings.Join(file.Ignored, ", ")))
		}
		files = append(files, described)
	}
	return files, nil
}

// openMetalink returns the content of a Metalink. mayConnect decides about the addresses of the
// mirrors: a web server may name those that it could redirect to. A file was chosen by the user.
func (f *fetcher) openMetalink(
	ctx context.Context, op, name string,
) (content io.ReadCloser, mayConnect func(netip.Addr) bool, err error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), nil, nil
	}
	if !strings.Contains(name, "://") {
		file, err := os.Open(name)
		return file, nil, localFileError(op, err)
	}
	u, err := webfile.Parse(name, false) // its hashes are worth no more than the way to it
	if err != nil {
		return nil, nil, usagef(adviseMetalink, "--metalink %q: %w", withoutQuery(name), err)
	}
	client := webfile.New(webfile.Options{Roots: f.web.Roots, Credentials: f.web.Credentials, Agent: "kwikcp"})
	defer client.Close()
	text, server, err := client.Read(ctx, u, metalink.MaxSize)
	if e, ok := errors.AsType[*webfile.Error](err); ok {
		kind := transfer.KindNetwork
		switch e.Status {
		case http.StatusNotFound, http.StatusGone:
			kind = transfer.KindNotFound
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
			kind = transfer.KindRefused
		}
		return nil, nil, advisedError{adviseMetalinkNetwork, &transfer.Error{Kind: kind, Op: op, Err: e.Err}}
	}
	if err != nil {
		return nil, nil, err
	}
	mayConnect = func(ip netip.Addr) bool {
		return addrclass.MayName(addrclass.Of(server), addrclass.Of(ip), server.IsLoopback())
	}
	return io.NopCloser(bytes.NewReader(text)), mayConnect, nil
}

// withoutQuery returns a URL for messages, without what may be a secret. A file name stays.
func withoutQuery(name string) string {
	if !strings.Contains(name, "://") {
		return name
	}
	name, _, _ = strings.Cut(withoutUserInfo(name), "?")
	return name
}
