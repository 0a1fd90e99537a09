package cmd

import (
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"
)

// stateDirOption is the option for the directory of the server's key and the known hosts.
func stateDirOption(to *string) cli.Flag {
	f := stringOption(to, "state-dir", "keep the server's key, its index and the known hosts in `DIR`")
	f.DefaultText = "$STATE_DIRECTORY, $XDG_STATE_HOME/kwikcp or ~/.local/state/kwikcp"
	return f
}

// stateDir returns the directory for the server's key and the known hosts. It is option, the value
// of --state-dir, or the first of the default ones. The directory may not exist. An error means
// that there is none. A client needs none for servers that a pin or an authority vouches for.
func stateDir(option string) (string, error) {
	if option != "" {
		return option, nil
	}
	// systemd sets it to the directories of StateDirectory=, separated by colons.
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) && runtime.GOOS != "windows" {
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
	home, ok := homeDir()
	if !ok {
		return "", usagef(adviseStateDir, "there is no home directory, and so no place for the state of kwikcp")
	}
	return filepath.Join(home, ".local", "state", "kwikcp"), nil
}

// homeDir returns the home directory of the user: $HOME, or without it that of the user database.
// Cron and units may lack the variable, containers both.
func homeDir() (dir string, ok bool) {
	if dir, err := os.UserHomeDir(); err == nil && filepath.IsAbs(dir) {
		return dir, true
	}
	u, err := user.Current()
	if err != nil || !filepath.IsAbs(u.HomeDir) {
		return "", false
	}
	return u.HomeDir, true
}
