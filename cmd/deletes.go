package cmd

import (
	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// deleteOptions are the options of get -r and of serve --mirror that bound what a mirror removes.
type deleteOptions struct {
	delete        bool
	maxDelete     string
	backupDir     string
	oneFileSystem bool
}

func maxDeleteOption(to *string, with string) cli.Flag {
	return stringOption(to, "max-delete", "with "+with+", delete nothing if more than `N|P%` entries would go (default: "+
		"all of them, or more than half of ten or more)")
}

func backupDirOption(to *string, with string) cli.Flag {
	return stringOption(to, "backup-dir", "with "+with+", move deleted and replaced files to `DIR`, under the same paths")
}

func oneFileSystemOption(to *bool, with, root string, aliases ...string) cli.Flag {
	return boolOption(to, "one-file-system", "with "+with+", leave directories of "+root+" as they are that are on another "+
		"file system", aliases...)
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
	o.Delete, o.MaxDelete, o.BackupDir, o.OneFileSystem = d.delete, d.limit, d.backupDir, d.oneFileSystem
}
