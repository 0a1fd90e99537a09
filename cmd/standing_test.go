package cmd

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"kwikcp/transfer"
)

// receivedInto returns what file a command that runs in dir receives into, "" if none. It takes
// what follows a URL for it.
func receivedInto(dir string, args []string) string {
	i := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "kwik://") })
	if i < 0 || args[0] != "get" {
		return ""
	}
	u, err := transfer.ParseURL(args[i])
	if err != nil {
		return ""
	}
	name := path.Base(u.Path)
	if i+1 == len(args) || strings.HasPrefix(args[i+1], "--") {
		return filepath.Join(dir, name)
	}
	if args[i+1] == "-" {
		return ""
	}
	target := args[i+1]
	if !filepath.IsAbs(target) {
		target = filepath.Join(dir, target)
	}
	if info, err := os.Stat(target); err == nil && info.IsDir() {
		return filepath.Join(target, name)
	}
	return target
}

// standing is what is under a name: its content's hash and what the system says of it, or why there
// is nothing.
type standing struct {
	path, is string
}

func look(path string) standing {
	info, err := os.Lstat(path)
	if err != nil {
		return standing{path, err.Error()}
	}
	if !info.Mode().IsRegular() {
		return standing{path, fmt.Sprint(info.Mode(), info.ModTime())}
	}
	content, err := os.ReadFile(path)
	return standing{path, fmt.Sprintf("%v %v %x %v", info.Mode(), info.ModTime(), sha256.Sum256(content), err)}
}
