// Package beneath opens what lies below a directory, and nothing else. Names are
// looked up from the directory that is open, and no link on the way is followed, nor
// one at the end: whoever swaps a directory for a link while a tree is being read
// gets an error instead of a file of somebody else's. Opening never waits for
// anybody, and what is no regular file is not opened for reading at all. ReadFile
// keeps that of a path of the user's own choice, whose links are followed.
package beneath

import "errors"

// What is there is not what it was taken for.
var (
	ErrNotRegular = errors.New("is not a regular file")
	ErrNotLink    = errors.New("is not a symbolic link")
	ErrDirectory  = errors.New("is a directory")
	ErrTooLarge   = errors.New("is too large")
)
