package cmd

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"kwikcp/kwik"
	"kwikcp/transfer/disk"
)

// This file decides what a server never serves and a mirror never changes, and warns of what a
// server's directory opens to others.

// kwikcp's own files in the state directory and in the configuration directory, as patterns. They
// matter if such a directory is itself served.
var ownFiles = []string{"server.key*", "known_hosts*", "trees-*.db*", "credentials*"}

// isOwnFile reports whether a name is one that kwikcp gives to its files. Some file systems
// ignore case.
func isOwnFile(name string) bool {
	for _, pattern := range ownFiles {
		if match, _ := path.Match(pattern, strings.ToLower(name)); match {
			return true
		}
	}
	return false
}

// newSecrets returns the secrets of this user's kwikcp: the state directory, the default one, the
// configuration directory, and files. An empty name is no file and no directory.
func newSecrets(state string, files ...string) *disk.Secrets {
	secrets := disk.NewSecrets()
	if state != "" {
		secrets.AddDir(state, isOwnFile)
	}
	if byDefault, err := stateDir(""); err == nil && byDefault != state {
		secrets.AddDir(byDefault, isOwnFile)
	}
	if dir, err := os.UserConfigDir(); err == nil {
		secrets.AddDir(filepath.Join(dir, "kwikcp"), isOwnFile)
	}
	for _, file := range files {
		secrets.AddFile(file)
	}
	return secrets
}

// protectedTree returns a function that opens the target of a mirror, without the secrets in it.
func protectedTree(secrets *disk.Secrets) func(path string, create bool) (disk.TreeDir, error) {
	return func(path string, create bool) (disk.TreeDir, error) {
		tree, err := disk.OpenTree(path, create)
		if err != nil {
			return nil, err
		}
		protected, err := secrets.Protect(tree)
		if err != nil {
			tree.Close()
			return nil, err
		}
		return protected, nil
	}
}

func (c *serveConfig) op() string { return fmt.Sprintf("serve --root %q", c.root) }

// warnOfRoot logs one line if the root holds secrets, and one if everybody may read the root.
func (s *runningServer) warnOfRoot() {
	s.warnOfSecrets()
	// Secondaries serve nothing without a ticket of their primary.
	isOpen := s.role == kwik.ServerRolePrimary && !s.restricted
	if isOpen && !listensOnLoopback(s.listener.Addr()) {
		s.log.Warn("anyone who can reach this port can read everything below " + s.rootName())
	}
}

// warnOfSecrets logs one line if the root holds secrets.
func (s *runningServer) warnOfSecrets() {
	root := s.rootName()
	info, err := os.Stat(root)
	if err != nil || s.isRemote() {
		return
	}
	var inside []string
	for _, path := range append([]string{s.stateDir}, s.secretFiles...) {
		if path != "" && isWithin(path, info) {
			inside = append(inside, absolute(path))
		}
	}
	state, err := os.Stat(s.stateDir)
	switch stateHasRoot := err == nil && isWithin(root, state); {
	case len(inside) > 0:
		s.log.Warn("the root holds secrets of this server, which are not served; a root without them is safer",
			"root", root, "secrets", strings.Join(inside, " "))
	case stateHasRoot:
		s.log.Warn("the root is in the state directory of this server; another root is safer", "root", root,
			"state_dir", absolute(s.stateDir))
	}
}

// isWithin reports whether a path is a directory or below it, whatever links are on the way.
func isWithin(path string, dir fs.FileInfo) bool {
	path = absolute(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for {
		if info, err := os.Stat(path); err == nil && os.SameFile(info, dir) {
			return true
		}
		parent := filepath.Dir(path)
		if parent == path {
			return false
		}
		path = parent
	}
}

func listensOnLoopback(addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
