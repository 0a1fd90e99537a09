package kwik

import "time"

const (
	// minGain is the factor by which twice the paths must raise the rate.
	minGain = 1.25
	// A trial lasts trialTime and ten round trips. Its result is the rate of its last rateWindow.
	trialTime  = 1250 * time.Millisecond
	rateWindow = time.Second
	// minPause is the pause after a trial that failed. The pause doubles with each failure in a
	// row, up to maxPause.
	minPause = 5 * time.Second
	maxPause = 80 * time.Second
)

// A widthTrials finds by trials how many paths to a source are fastest. It is a pure state machine
// that has no clock: its input is the payload that arrived and the time, its output is width. It
// starts with one path and is in one of three states:
//
//	steady (trial is nil) --more may help--> trial: twice the paths
//	trial --rate grew by minGain--> steady with twice the paths
//	trial --rate did not grow-----> steady with the old number; no trial before resumeAt
type widthTrials struct {
	width int // number of paths that the source should have
	limit int // the largest width

	samples  []rateSample  // those of the last rateWindow, oldest first
	trial    *widthTrial   // nil while no trial is under way
	resumeAt time.Time     // earliest start of the next trial
	pause    time.Duration // pause after the last trial; 0 if it succeeded
}

// A widthTrial is the state before a trial, and the trial's end.
type widthTrial struct {
	oldWidth int
	oldRate  float64 // bytes a second
	ends     time.Time
}

// A rateSample is the payload that a server has delivered up to a time, in bytes.
type rateSample struct {
	at       time.Time
	received int64
}

// observe adds a sample. It ends a trial whose time is over, or begins one if mayHelp reports that
// more paths may help. received is the payload that the source has delivered over all its paths,
// in bytes.
func (w *widthTrials) observe(received int64, rtt time.Duration, mayHelp func() bool, now time.Time) {
	w.addSample(rateSample{now, received})
	rate, isKnown := w.rate()
	switch {
	case w.trial != nil:
		if !now.Before(w.trial.ends) {
			w.endTrial(rate, now)
		}
	case isKnown && w.width < w.limit && !now.Before(w.resumeAt) && mayHelp():
		w.startTrial(rate, now.Add(trialTime+10*rtt))
	}
}

func (w *widthTrials) startTrial(rate float64, ends time.Time) {
	w.trial = &widthTrial{oldWidth: w.width, oldRate: rate, ends: ends}
	w.width = min(2*w.width, w.limit)
}

// endTrial keeps the trial's width if the rate has grown enough. Otherwise it goes back to the
// old width.
func (w *widthTrials) endTrial(rate float64, now time.Time) {
	ended := w.trial
	w.trial = nil
	if rate >= minGain*ended.oldRate {
		w.pause = 0
		return
	}
	w.width = ended.oldWidth
	w.pauseTrials(now)
}

// pauseTrials delays the next trial, longer each time in a row.
func (w *widthTrials) pauseTrials(now time.Time) {
	w.pause = min(max(minPause, 2*w.pause), maxPause)
	w.resumeAt = now.Add(w.pause)
}

// addSample adds a sample and removes those that are older than rateWindow.
func (w *widthTrials) addSample(s rateSample) {
	w.samples = append(w.samples, s)
	for len(w.samples) > 2 && s.at.Sub(w.samples[1].at) >= rateWindow {
		w.samples = w.samples[1:]
	}
}

// rate returns the payload rate of the last rateWindow, in bytes a second. It is not known
// while the samples cover less time, or if no payload arrived.
func (w *widthTrials) rate() (bytesPerSecond float64, isKnown bool) {
	first, last := w.samples[0], w.samples[len(w.samples)-1]
	elapsed := last.at.Sub(first.at)
	if elapsed < rateWindow || last.received == first.received {
		return 0, false
	}
	return float64(last.received-first.received) / elapsed.Seconds(), true
}
