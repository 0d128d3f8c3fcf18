package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Refusal is the Extra of a diagnostic about something that a build file asks for
// and that whoever builds has to allow.
type Refusal struct {
	// Allow is the value of --allow that allows it.
	Allow string
}

// Refusals are the values of --allow without which the diagnostics would have
// fewer errors, each once. others is set if there are errors besides.
func Refusals(diags hcl.Diagnostics) (allow []string, others bool) {
	for _, d := range diags {
		refusal, ok := hcl.DiagnosticExtra[*Refusal](d)
		switch {
		case d.Severity != hcl.DiagError:
		case !ok:
			others = true
		case !slices.Contains(allow, refusal.Allow):
			allow = append(allow, refusal.Allow)
		}
	}
	return allow, others
}

// refuse reports something that --allow would allow. The detail ends with what it
// would do: the sentence goes on.
func (l *loader) refuse(at *hcl.Range, allow, summary, detail string, args ...any) {
	l.diags = append(l.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summary, Subject: at, Extra: &Refusal{Allow: allow},
		Detail: fmt.Sprintf(detail, args...) + ", pass --allow " + allow,
	})
}

// allowance is what --allow allows.
type allowance struct {
	networkHost, insecure, ssh, localDelete bool
	// anyDevice is set for all devices; devices are the names of some.
	anyDevice bool
	devices   []string
	// anyRead and anyWrite are set for *; read and write are paths without
	// symbolic links.
	anyRead, anyWrite bool
	read, write       []string
}

const (
	allowSSH         = "ssh"
	allowLocalDelete = "buildx.local.delete"
)

// What can be allowed: by itself, or with a value.
var (
	allowFlags  = []string{entitlementNetworkHost, entitlementInsecure, allowSSH, allowLocalDelete}
	allowValues = []string{entitlementDevice, "fs", "fs.read", "fs.write", "image", "image.push", "image.load"}
)

func (l *loader) parseAllow() {
	for _, allow := range l.req.Allow {
		key, value, hasValue := strings.Cut(allow, "=")
		switch {
		case slices.Contains(allowFlags, key) && hasValue:
			l.errorf(nil, "Invalid --allow", "--allow %s takes no value: %q is one too many.", key, value)
		case key == entitlementNetworkHost:
			l.allow.networkHost = true
		case key == allowLocalDelete:
			l.allow.localDelete = true
		case key == entitlementInsecure:
			l.allow.insecure = true
		case key == allowSSH:
			l.allow.ssh = true
		case !slices.Contains(allowValues, key):
			all := slices.Concat(allowFlags, allowValues)
			l.errorf(nil, "Invalid --allow", "There is nothing called %q to allow.%s There are %s.", key, didYouMean(key, all), strings.Join(all, ", "))
		case key == entitlementDevice && value == "":
			l.allow.anyDevice = true
		case key == entitlementDevice:
			name, _, _ := strings.Cut(value, ",")
			l.allow.devices = append(l.allow.devices, name)
		case strings.HasPrefix(key, "fs"):
			l.allowPath(key, value)
		}
	}
}

// allowPath allows a path; an empty one is the working directory, as in bake: it is
// what becomes of a script's variable that is not set.
func (l *loader) allowPath(key, value string) {
	read, write := key != "fs.write", key != "fs.read"
	if value == "*" {
		l.allow.anyRead = l.allow.anyRead || read
		l.allow.anyWrite = l.allow.anyWrite || write
		return
	}
	if value == "" {
		l.warnf(nil, "--allow without a path", "--allow %s= has no path, and allows nothing that is not allowed anyway. Write %s=PATH, or %s=* for every path.", key, key, key)
	}
	value = withoutLinks(l.abs(value))
	if read {
		l.allow.read = append(l.allow.read, value)
	}
	if write {
		l.allow.write = append(l.allow.write, value)
	}
}

// withoutFSChecks reports whether the environment turns off the checks of what is
// read and written here: of all builds, or of those whose build files come from
// elsewhere. What is neither true nor false leaves them on.
func (l *loader) withoutFSChecks() bool {
	flag := func(name string) (on, set bool) {
		v, set := l.req.LookupEnv(name)
		on, err := strconv.ParseBool(v)
		if set && err != nil {
			l.warnf(nil, "Invalid environment", "%s is %q, which is not a bool; paths are checked.", name, v)
		}
		return on && err == nil, set && err == nil
	}
	if check, set := flag("BUILDX_BAKE_ENTITLEMENTS_FS"); set {
		return !check
	}
	off, _ := flag("BAKE_ALLOW_REMOTE_FS_ACCESS")
	return off && l.remote != nil
}
