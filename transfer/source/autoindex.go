package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"kwikcp/transfer/disk"
)

// This file reads the listings that web servers generate.

// maxListing bounds the listing of a directory, in bytes: 300,000 entries of nginx.
const maxListing = 64 << 20

// errListing is the error of a page that is not a listing.
var errListing = errors.New("the page is no listing of a directory")

// autoindex requests the listing of a directory.
func (s *httpStore) autoindex(ctx context.Context, dir string) ([]objectInfo, error) {
	u := s.url(dir, true)
	answer, err := s.request(ctx, http.MethodGet, u, http.Header{"Accept": {"application/json, text/html"}})
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized: // nginx forbids the listing, and not the files
		return nil, ErrNoListing
	case http.StatusNotFound:
		if dir == "" {
			return nil, ErrNoListing // there may be files nevertheless
		}
	}
	if err := s.missing(u, answer); err != nil {
		return nil, err
	}
	page, err := io.ReadAll(io.LimitReader(answer.Body, maxListing+1))
	switch {
	case err != nil:
		return nil, s.unavailable(fmt.Errorf("the listing broke off: %w", err))
	case len(page) > maxListing:
		return nil, disk.ErrTooManyEntries
	}
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	var entries []objectInfo
	switch kind {
	case "application/json":
		entries, err = parseJSONListing(page)
	case "text/html", "application/xhtml+xml":
		entries, err = parseHTMLListing(page, answer.Request.URL)
	default:
		err = errListing
	}
	switch {
	case errors.Is(err, errListing):
		return nil, ErrNoListing
	case err != nil:
		return nil, s.unavailable(err)
	case len(entries) == 0 && dir != "":
		return nil, fs.ErrNotExist
	}
	return entries, nil
}

// parseJSONListing parses nginx's listing with "autoindex_format json".
func parseJSONListing(page []byte) ([]objectInfo, error) {
	var listed []struct {
		Name  *string
		Type  string
		MTime string
		Size  *int64
	}
	if json.Unmarshal(page, &listed) != nil {
		return nil, errListing
	}
	entries := make([]objectInfo, 0, len(listed))
	for _, e := range listed {
		if e.Name == nil {
			return nil, errListing
		}
		info := objectInfo{name: *e.Name, size: unknownSize}
		switch e.Type {
		case "directory":
			info.isDir = true
		case "file":
			at, err := http.ParseTime(e.MTime)
			if err == nil && e.Size != nil && *e.Size >= 0 {
				info.size, info.mtime = *e.Size, at
			}
		default: // a device, a socket or a broken link
			continue
		}
		entries = append(entries, info)
	}
	return entries, nil
}

// parseHTMLListing parses the listings of nginx, Apache and others: the links of a page that lead
// to entries of the same directory. The page is at a URL. Sizes and times in it are rounded, so
// they are not used.
func parseHTMLListing(page []byte, at *url.URL) ([]objectInfo, error) {
	isListing := false
	seen := make(map[objectInfo]bool)
	var entries []objectInfo
	tokens := html.NewTokenizer(bytes.NewReader(page))
	for inHeading := false; ; {
		switch tokens.Next() {
		case html.ErrorToken:
			if tokens.Err() != io.EOF {
				return nil, errListing
			}
			if !isListing {
				return nil, errListing
			}
			return entries, nil
		case html.TextToken:
			isListing = isListing || inHeading && isListingTitle(string(tokens.Text()))
		case html.EndTagToken:
			inHeading = false
		case html.StartTagToken:
			t := tokens.Token()
			inHeading = t.DataAtom == atom.Title || t.DataAtom == atom.H1
			if t.DataAtom != atom.A {
				continue
			}
			for _, a := range t.Attr {
				if a.Key != "href" {
					continue
				}
				if info, ok := entryOfLink(a.Val, at); ok && !seen[info] {
					seen[info] = true
					entries = append(entries, info)
				}
			}
		}
	}
}

// isListingTitle reports whether a title is that of a listing.
func isListingTitle(title string) bool {
	title = strings.TrimSpace(title)
	return strings.HasPrefix(title, "Index of ") || strings.HasPrefix(title, "Directory listing for ")
}

// entryOfLink returns the entry to which a link on the page of a directory leads; ok is false if it
// leads elsewhere.
func entryOfLink(href string, at *url.URL) (info objectInfo, ok bool) {
	link, err := at.Parse(strings.TrimSpace(href))
	if err != nil || link.Scheme != at.Scheme || link.Host != at.Host || link.RawQuery != "" || link.ForceQuery {
		return info, false // Apache's links with a query sort the page
	}
	dir := at.EscapedPath()
	dir = dir[:strings.LastIndexByte(dir, '/')+1]
	rest, isBelow := strings.CutPrefix(link.EscapedPath(), dir)
	if !isBelow { // another spelling of the same path
		plain := at.Path[:strings.LastIndexByte(at.Path, '/')+1]
		if rest, isBelow = strings.CutPrefix(link.Path, plain); isBelow {
			rest = url.PathEscape(rest)
			rest = strings.ReplaceAll(rest, "%2F", "/")
		}
	}
	rest, isDir := strings.CutSuffix(rest, "/")
	name, err := url.PathUnescape(rest)
	if !isBelow || err != nil || rest == "" || strings.Contains(rest, "/") {
		return info, false
	}
	return objectInfo{name: name, isDir: isDir, size: unknownSize}, true
}
