package source

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

func TestParseS3(t *testing.T) {
	for text, want := range map[string]S3Location{
		"s3://bucket":            {"bucket", ""},
		"s3://bucket/":           {"bucket", ""},
		"s3://my.bucket-1/a/b//": {"my.bucket-1", "a/b"},
		"s3://bucket/a b%20ä":    {"bucket", "a b%20ä"},
	} {
		if got, err := ParseS3(text); err != nil || got != want {
			t.Errorf("%q is %+v: %v", text, got, err)
		}
	}
	for text, why := range map[string]string{
		"https://bucket/a":             "begin",
		"s3:bucket":                    "begin",
		"s3://":                        "missing",
		"s3:///a":                      "missing",
		"s3://key:hush@bucket/a":       "password",
		"s3://hush@bucket":             "password",
		"s3://bucket/a?versionId=hush": "query",
		"s3://bucket/#a":               "fragment",
		"s3://Bucket":                  "name of a bucket",
		"s3://bu_cket":                 "name of a bucket",
		"s3://ab":                      "name of a bucket",
		"s3://192.0.2.1/a":             "name of a bucket",
		"s3://bucket:9000/a":           "name of a bucket",
		"s3://bucket/\xff":             "UTF-8",
		"s3://bucket/" + strings.Repeat("x", 1100): "less than",
	} {
		if _, err := ParseS3(text); err == nil || !strings.Contains(err.Error(), why) ||
			strings.Contains(err.Error(), "hush") {
			t.Errorf("%.40q: %v, want %q", text, err, why)
		}
	}
}

func FuzzParseS3(f *testing.F) {
	f.Add("s3://bucket/a/b/")
	f.Add("s3://key:secret@bucket")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseS3(text)
		if err != nil {
			return
		}
		if again, err := ParseS3(l.String()); err != nil || again != l {
			t.Errorf("%q is %+v, which is %+v: %v", text, l, again, err)
		}
	})
}

func TestParseS3Endpoint(t *testing.T) {
	for text, want := range map[string]string{
		"https://minio.example:9000": "https://minio.example:9000",
		"https://[::1]:9000/":        "https://[::1]:9000",
		"http://127.0.0.1:9000":      "http://127.0.0.1:9000",
	} {
		if got, err := ParseS3Endpoint(text, true); err != nil || got.String() != want {
			t.Errorf("%q is %v: %v", text, got, err)
		}
	}
	if _, err := ParseS3Endpoint("http://127.0.0.1:9000", false); !errors.Is(err, ErrPlainEndpoint) {
		t.Errorf("an endpoint without TLS: %v", err)
	}
	for _, text := range []string{
		"", "minio:9000", "//minio", "https://", "https://:9000", "ftp://minio", "https://u:hush@minio", "https://minio/b",
		"https://minio?x", "https://minio#x", "https://minio:x", "https:minio",
	} {
		if got, err := ParseS3Endpoint(text, true); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q is %v: %v", text, got, err)
		}
	}
}

// A fakeProvider is a source of credentials.
type fakeProvider struct {
	value     credentials.Value
	err       error
	isExpired bool
	calls     int
}

func (p *fakeProvider) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	p.calls++
	return p.value, p.err
}
func (p *fakeProvider) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }
func (p *fakeProvider) IsExpired() bool                      { return p.isExpired }

func TestS3Credentials(t *testing.T) {
	for _, name := range []string{
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_EC2_METADATA_DISABLED",
	} {
		t.Setenv(name, "")
	}
	clock := time.Unix(0, 0)
	local, role := &fakeProvider{}, &fakeProvider{err: errors.New("no route")}
	c := &s3Chain{local: []credentials.Provider{local}, role: role, now: func() time.Time { return clock }}
	creds := credentials.New(c)
	for range 3 {
		if v, err := creds.GetWithContext(nil); err != nil || !v.SignerType.IsAnonymous() || role.calls != 1 {
			t.Errorf("without credentials: %+v after %d calls: %v", v.SignerType, role.calls, err)
		}
	}
	clock = clock.Add(anonymousFor)
	role.value, role.err = credentials.Value{AccessKeyID: "role", SecretAccessKey: "x"}, nil
	if v, err := creds.GetWithContext(nil); err != nil || v.AccessKeyID != "role" {
		t.Errorf("the role is not found: %v", err)
	}
	role.isExpired, role.err, role.value = true, errors.New("no route"), credentials.Value{}
	if v, err := creds.GetWithContext(nil); err == nil {
		t.Errorf("a role that failed: requests are signed with %v", v.SignerType)
	}
	local.value = credentials.Value{AccessKeyID: "local", SecretAccessKey: "x"}
	if v, err := creds.GetWithContext(nil); err != nil || v.AccessKeyID != "local" {
		t.Errorf("the environment is not used: %v", err)
	}
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere")
	c = &s3Chain{role: role, now: time.Now}
	if _, err := c.Retrieve(); err == nil {
		t.Error("a configured role that fails does not count")
	}
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	before := role.calls
	if v, err := c.Retrieve(); err != nil || !v.SignerType.IsAnonymous() || role.calls != before {
		t.Errorf("the metadata service was asked: %v", err)
	}
}
