package source

import "io/fs"

func fillInode(*File, fs.FileInfo) {}
