package source

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"kwikcp/transfer/disk"
)

const (
	// settleTime is the age from which on a replaced object has another version. Most web servers
	// make entity tags, strong ones too, of a file's size and its time in seconds.
	settleTime = 2 * time.Second
	// maxSettles bounds the requests for an object that is replaced again and again.
	maxSettles = 5
)

// requestSettled is request for an object of any version. It waits until the object is old enough:
// if it is replaced from then on, it has another version. A time that somebody sets on purpose can
// defeat that.
func (s *httpStore) requestSettled(
	ctx context.Context, method string, u *url.URL, header http.Header,
) (*http.Response, error) {
	var last string // Date of the answer before
	for range maxSettles {
		answer, err := s.request(ctx, method, u, header)
		if err != nil {
			return nil, err
		}
		date := answer.Header.Get("Date")
		delay := unsettled(answer)
		isOfCache := date == last // which sends the same content all the time
		if delay == 0 || isOfCache || isDirectory(u, answer) {
			return answer, nil
		}
		answer.Body.Close()
		if err := s.wait(ctx, delay); err != nil {
			return nil, err
		}
		last = date
	}
	return nil, disk.ErrChanged
}

// unsettled returns how long an object that was found needs until it has the settleTime, by the
// clock of its web server.
func unsettled(answer *http.Response) time.Duration {
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusPartialContent {
		return 0
	}
	now, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return 0
	}
	modified, err := http.ParseTime(answer.Header.Get("Last-Modified"))
	if err != nil {
		return 0
	}
	if age, err := strconv.ParseUint(answer.Header.Get("Age"), 10, 31); err == nil { // in a cache, seconds
		now = now.Add(time.Duration(age) * time.Second)
	}
	if age := now.Sub(modified); age >= 0 && age < settleTime {
		return settleTime - age
	}
	return 0
}
