package cmd

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"kwikcp/transfer"
)

// targetOf returns what file a command receives into, "" if none. It takes what follows a URL for it.
func targetOf(args []string) string {
	i := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "kwik://") })
	if i < 0 || args[0] != "get" {
		return ""
	}
	if i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
		if args[i+1] == "-" {
			return ""
		}
		return args[i+1]
	}
	u, err := transfer.ParseURL(args[i])
	if err != nil {
		return ""
	}
	return path.Base(u.Path)
}

// standing is what is under a name: its content's hash and what the system says of it, or why there is nothing.
type standing struct {
	path, is string
}

func look(path string) standing {
	info, err := os.Lstat(path)
	if err != nil {
		return standing{path, err.Error()}
	}
	content, err := os.ReadFile(path) // the error of a directory is as good
	return standing{path, fmt.Sprintf("%v %v %x %v", info.Mode(), info.ModTime(), sha256.Sum256(content), err)}
}
