package identity

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
)

// maxCRLFile bounds the file of revocation lists, in bytes. A ConfigMap, where it comes from, holds 1 MiB.
const maxCRLFile = 16 << 20

// crlFile notices what becomes of the file of revocation lists. It follows symbolic links, by which the kubelet replaces
// what a pod has mounted.
type crlFile struct {
	path  string
	state atomic.Uint32 // a crlState

	// The rest belongs to whoever polls.
	seen    fs.FileInfo       // of the file that was read last
	pending fs.FileInfo       // of a file that changed and may still be written to
	sum     [sha256.Size]byte // of the content that is in force
	told    string            // the error that was reported last
}

// crlState is what is the matter with the file.
type crlState = uint32

const (
	crlUnknown crlState = iota // not looked at yet
	crlLoaded                  // the lists in force are those of the file
	crlMissing
	crlInvalid // it cannot be read or parsed
)

// poll returns the lists of the file if they are new, or an error if that is new. With nothing in force yet the file is read
// at once, otherwise when it stayed the same since the last call. Only one may poll at a time.
func (f *crlFile) poll(first bool) (*revocations, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, f.fail(err, nil)
	}
	if same(info, f.seen) {
		f.pending = nil
		return nil, nil
	}
	if !first && !same(info, f.pending) {
		f.pending = info
		return nil, nil
	}
	f.pending = nil
	text, info, err := f.read()
	if err != nil {
		return nil, f.fail(err, info)
	}
	sum := sha256.Sum256(text)
	if !first && sum == f.sum {
		f.good(info, sum)
		return nil, nil // touched, replaced by itself, or back to what is in force
	}
	lists, err := parseRevocations(text)
	if err != nil {
		return nil, f.fail(err, info)
	}
	f.good(info, sum)
	return lists, nil
}

// good notes that what the file holds is in force.
func (f *crlFile) good(info fs.FileInfo, sum [sha256.Size]byte) {
	f.state.Store(crlLoaded)
	f.seen, f.told, f.sum = info, "", sum
}

// fail notes that the file is of no use, and returns the error unless that was known. Info is of the file that was read,
// which will not be read again before it changes.
func (f *crlFile) fail(err error, info fs.FileInfo) error {
	state := crlInvalid
	if isMissing(err) {
		state = crlMissing
	}
	f.state.Store(state)
	f.seen, f.pending = info, nil
	if f.told == err.Error() {
		return nil
	}
	f.told = err.Error()
	return err
}

// read reads the file, and tells which one that was.
func (f *crlFile) read() ([]byte, fs.FileInfo, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, info, errors.New("it is no regular file")
	}
	var text bytes.Buffer
	if n, err := io.Copy(&text, io.LimitReader(file, maxCRLFile+1)); err != nil {
		return nil, nil, err
	} else if n > maxCRLFile {
		return nil, info, fmt.Errorf("it is larger than %d bytes", maxCRLFile)
	}
	return text.Bytes(), info, nil
}

// same reports whether two looks at the file saw the same one, unchanged.
func same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
