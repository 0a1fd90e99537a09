//go:build linux

// Command measure runs a command and prints its cost, with its children, and that of the
// servers that it uses.
//
//	measure [flags] COMMAND [ARG ...]
//	measure -column N FILE
//
// It prints one line of seven columns. Columns that were not requested, or are unknown, are "-":
//
//	1 seconds from the start of the process to its end
//	2 CPU seconds of the command   3 CPU seconds of the servers, during the run
//	4 peak memory of the command   5 peak memory of the server that had the highest one, during the run, in MiB
//	6 seconds to the first byte (see -first)   7 seconds as the command reports them, in a line "N s, ..."
//
// Peak memory is VmHWM of /proc/PID/status; of several processes that belong together (rsync,
// nginx) it is the sum. The command's output goes to standard error. The exit code is 1 if it
// failed.
//
// With -column it reads lines like these, or any others of words, and prints the median, the
// lowest and the highest of one column.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run() error {
	fs := flag.NewFlagSet("measure", flag.ContinueOnError)
	servers := fs.String("servers", "", "process ids of servers, separated by commas")
	first := fs.String("first", "", "a pattern: the first byte is there when one was written to a file that matches it")
	stop := fs.Bool("stop", false, "kill the command at the first byte")
	column := fs.Int("column", 0, "print median, minimum and maximum of this column of a file, counted from 1")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return err
	}
	switch {
	case *column > 0 && fs.NArg() == 1:
		return summarize(fs.Arg(0), *column)
	case *column > 0 || fs.NArg() == 0:
		return errors.New("usage: measure [flags] COMMAND [ARG ...] | measure -column N FILE")
	}
	var pids []int
	for word := range strings.SplitSeq(*servers, ",") {
		if word == "" {
			continue
		}
		pid, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		// From here on its VmHWM is that of this run.
		os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
		pids = append(pids, pid)
	}
	m := meter{servers: pids, first: *first, stop: *stop, peaks: map[int]map[int]int64{}}
	return m.run(fs.Args())
}

// A meter watches one run of a command.
type meter struct {
	servers []int
	first   string
	stop    bool

	peaks     map[int]map[int]int64 // KiB; by root process, then by process
	firstByte time.Duration         // 0 while there is none
}

const (
	lookInterval = 500 * time.Microsecond // at the file system, for the first byte
	treeInterval = 20 * time.Millisecond  // at the memory of processes
)

func (m *meter) run(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&printed, os.Stderr), os.Stderr
	if printsFile(args) {
		cmd.Stdout = nil // to /dev/null
	}
	before := m.serversCPU()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err := m.watch(cmd.Process, start, ended)
	seconds := time.Since(start).Seconds()
	if err != nil && !(m.stop && m.firstByte > 0) {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	state := cmd.ProcessState
	columns := []string{
		fmt.Sprintf("%.4f", seconds),
		fmt.Sprintf("%.3f", (state.UserTime() + state.SystemTime()).Seconds()),
		"-", m.peak(cmd.Process.Pid), "-", "-", "-",
	}
	if len(m.servers) > 0 {
		columns[2] = fmt.Sprintf("%.3f", m.serversCPU()-before)
		m.look(m.servers...)
		highest := int64(0)
		for _, pid := range m.servers {
			highest = max(highest, total(m.peaks[pid]))
		}
		columns[4] = mebibytes(highest)
	}
	if m.firstByte > 0 {
		columns[5] = fmt.Sprintf("%.4f", m.firstByte.Seconds())
	}
	if said, _, ok := strings.Cut(printed.String(), " s, "); ok {
		columns[6] = said[strings.LastIndexAny(said, " \n")+1:]
	}
	fmt.Println(strings.Join(columns, " "))
	return nil
}

// printsFile reports whether the command's standard output is a file's content, "-" being its
// last word.
func printsFile(args []string) bool { return args[len(args)-1] == "-" }

// watch returns when the command has ended, with its error.
func (m *meter) watch(p *os.Process, start time.Time, ended <-chan error) error {
	looks := time.NewTicker(lookInterval)
	defer looks.Stop()
	trees := time.NewTicker(treeInterval)
	defer trees.Stop()
	if m.first == "" {
		looks.Stop()
	}
	for {
		select {
		case err := <-ended:
			if m.first != "" && m.firstByte == 0 && m.hasData() {
				m.firstByte = time.Since(start) // a small file, between two looks
			}
			return err
		case <-looks.C:
			if !m.hasData() {
				continue
			}
			m.firstByte = time.Since(start)
			looks.Stop()
			if m.stop {
				p.Kill()
			}
		case <-trees.C:
			m.look(append([]int{p.Pid}, m.servers...)...)
		}
	}
}

// hasData reports whether a byte has been written to a file that matches the pattern. One that
// only was given its size, or room on the disk, has none, where the file system can tell.
func (m *meter) hasData() bool {
	names, _ := filepath.Glob(m.first)
	return slices.ContainsFunc(names, func(name string) bool {
		f, err := os.Open(name)
		if err != nil {
			return false
		}
		defer f.Close()
		_, err = f.Seek(0, unix.SEEK_DATA)
		return err == nil
	})
}

// look notes how much memory processes and their descendants have had.
func (m *meter) look(roots ...int) {
	for _, root := range roots {
		for _, pid := range family(root) {
			if kib := highWater(pid); kib > m.peaks[root][pid] {
				if m.peaks[root] == nil {
					m.peaks[root] = map[int]int64{}
				}
				m.peaks[root][pid] = kib
			}
		}
	}
}

func total(peaks map[int]int64) (sum int64) {
	for _, kib := range peaks {
		sum += kib
	}
	return sum
}

func (m *meter) peak(root int) string {
	if sum := total(m.peaks[root]); sum > 0 {
		return mebibytes(sum)
	}
	return "-" // it was too short to be seen
}

func mebibytes(kib int64) string { return fmt.Sprintf("%.1f", float64(kib)/1024) }

// serversCPU returns the seconds of CPU that the servers, their children and those that they
// have had took so far.
func (m *meter) serversCPU() (seconds float64) {
	for _, root := range m.servers {
		for _, pid := range family(root) {
			own, reaped := ticks(pid)
			seconds += own
			if pid == root {
				seconds += reaped
			}
		}
	}
	return seconds
}

// family returns a process and its descendants, as far as they live.
func family(root int) []int {
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for word := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(word); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// highWater returns the VmHWM of a process in KiB, 0 if it is gone.
func highWater(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(fields[0], 10, 64)
	return kib
}

// ticksPerSecond is that of /proc: USER_HZ, which is 100 on all of Linux' architectures that
// Go knows.
const ticksPerSecond = 100

// ticks returns the CPU seconds of a process and of its children that have ended.
func ticks(pid int) (own, reaped float64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ") // a name may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return 0, 0
	}
	var n [4]float64 // fields 14 to 17 of proc(5): utime, stime, cutime, cstime
	for i := range n {
		n[i], _ = strconv.ParseFloat(fields[11+i], 64)
	}
	return (n[0] + n[1]) / ticksPerSecond, (n[2] + n[3]) / ticksPerSecond
}

// summarize prints the median, the minimum and the maximum of a column, or "- - -" if it holds
// no number.
func summarize(name string, column int) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var values []float64
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= column {
			if v, err := strconv.ParseFloat(fields[column-1], 64); err == nil {
				values = append(values, v)
			}
		}
	}
	if len(values) == 0 {
		fmt.Println("- - -")
		return nil
	}
	slices.Sort(values)
	n := len(values)
	fmt.Println((values[(n-1)/2]+values[n/2])/2, values[0], values[n-1])
	return nil
}
