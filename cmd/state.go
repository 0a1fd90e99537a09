package cmd

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"

	"github.com/urfave/cli/v2"
)

var stateDirFlag = &cli.StringFlag{
	Name: "state-dir", EnvVars: []string{"KWIKCP_STATE_DIR"},
	Usage: "keep the server's key and the known hosts in `DIR`", DefaultText: "$XDG_STATE_HOME/kwikcp or ~/.local/state/kwikcp",
}

// stateDir returns the directory for the server's key and the known hosts. It may not exist.
func stateDir(c *cli.Context) (string, error) {
	if dir := c.String(stateDirFlag.Name); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "kwikcp"), nil
	}
	if runtime.GOOS == "windows" {
		if dir, err := os.UserConfigDir(); err == nil {
			return filepath.Join(dir, "kwikcp"), nil
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usageError{errors.New("there is no home directory to keep state in"), "name a directory with --state-dir"}
	}
	return filepath.Join(home, ".local", "state", "kwikcp"), nil
}
