package cmd

import (
	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// deleteOptions are the options of get -r and of serve --mirror that bound what a mirror removes,
// replaces and takes.
type deleteOptions struct {
	stage         bool
	minAge        secondsValue
	modifyWindow  secondsValue
	update        bool
	delete        bool
	maxDelete     string
	backupDir     string
	oneFileSystem bool
}

func updateOption(to *bool, with, root string, aliases ...string) cli.Flag {
	usage := "with " + with + ", leave files of " + root + " that are newer than the server's, and name them"
	return boolOption(to, "update", usage, aliases...)
}

func minAgeOption(to *secondsValue, with string) cli.Flag {
	return secondsOption(to, "min-age", "with "+with+", leave files for later that changed less than `TIME` ago on "+
		"the server")
}

func modifyWindowOption(to *secondsValue, with string) cli.Flag {
	return secondsOption(to, "modify-window", "with "+with+", treat times as equal that differ by at most `TIME` "+
		"(default: what the file system loses)")
}

func stageOption(to *bool, with string) cli.Flag {
	return boolOption(to, "stage", "with "+with+", put nothing in place until everything has arrived")
}

func maxDeleteOption(to *string, with string) cli.Flag {
	return stringOption(to, "max-delete", "with "+with+", delete nothing if more than `N|P%` entries would go "+
		"(default: half of ten or more, and not after an empty listing)")
}

func backupDirOption(to *string, with string) cli.Flag {
	return stringOption(to, "backup-dir", "with "+with+", move deleted and replaced files to `DIR`, under the "+
		"same paths")
}

func oneFileSystemOption(to *bool, with, root string, aliases ...string) cli.Flag {
	usage := "with " + with + ", change no directory of " + root + " that is on another file system"
	return boolOption(to, "one-file-system", usage, aliases...)
}

// A deletion is how a mirror deletes: the checked options.
type deletion struct {
	deleteOptions
	limit transfer.DeleteLimit
}

// parse checks the options. name is the option that allows deletions.
func (o deleteOptions) parse(name string) (d deletion, err error) {
	d.deleteOptions = o
	if o.maxDelete == "" {
		return d, nil
	}
	if !o.delete {
		return d, usagef(adviseMaxDelete, "--max-delete is for --%s", name)
	}
	if d.limit, err = transfer.ParseDeleteLimit(o.maxDelete); err != nil {
		return d, usagef(adviseMaxDelete, "--max-delete %q: %w", o.maxDelete, err)
	}
	return d, nil
}

// set sets the fields of a mirror's options.
func (d deletion) set(o *transfer.MirrorOptions) {
	o.Update, o.Delete, o.MaxDelete, o.MinAge = d.update, d.delete, d.limit, d.minAge.Duration
	o.Stage = d.stage
	o.ModifyWindow = d.modifyWindow.Duration
	o.BackupDir, o.OneFileSystem = d.backupDir, d.oneFileSystem
}
