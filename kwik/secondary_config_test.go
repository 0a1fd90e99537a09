package kwik

import (
	"reflect"
	"testing"
	"time"
)

func TestSecondaryStreamConfig(t *testing.T) {
	defaults := SecondaryStreamConfig{
		MaxStreamsPerPath: 32, StreamTimeout: 10 * time.Second, MetadataTimeout: 30 * time.Second,
		BufferSize: 256 << 10, AggregationBatchSize: 256 << 10,
	}
	for name, tt := range map[string]struct{ in, want SecondaryStreamConfig }{
		"zero": {SecondaryStreamConfig{}, defaults},
		"too little": {
			SecondaryStreamConfig{-1, time.Nanosecond, -time.Second, 1, 1},
			SecondaryStreamConfig{1, minSecondaryTimeout, minSecondaryTimeout, 64 << 10, 4 << 10},
		},
		"too much": {
			SecondaryStreamConfig{1 << 20, 1 << 60, 1 << 60, 1 << 30, 1 << 30},
			SecondaryStreamConfig{256, time.Hour, time.Hour, maxDataPayload, maxDataPayload},
		},
		"in range": {
			SecondaryStreamConfig{7, time.Second, 2 * time.Second, 100_000, 5000},
			SecondaryStreamConfig{7, time.Second, 2 * time.Second, 100_000, 5000},
		},
		"no batches": {
			SecondaryStreamConfig{7, time.Second, 2 * time.Second, 100_000, -5},
			SecondaryStreamConfig{7, time.Second, 2 * time.Second, 100_000, -5},
		},
	} {
		if got := tt.in.populate(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	// No field is forgotten.
	v := reflect.ValueOf((&ClientConfig{}).populate().SecondaryStreams)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s has no default", v.Type().Field(i).Name)
		}
	}
}
