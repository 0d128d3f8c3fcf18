package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// What a target asks for beyond the ordinary: whoever starts the build has to
// allow it, for the build file may be somebody else's.

// entitlements are the rights that the target's steps may ask for.
func (r *resolver) entitlements(t *wireTarget) []string {
	for _, e := range t.Entitlements {
		if r.req.EvaluateOnly || e == entitlementNetworkHost { // see network
			continue
		}
		key, value, _ := strings.Cut(e, "=")
		at := t.whereValue("entitlements", e)
		switch {
		case e == entitlementInsecure:
			if !r.allow.insecure && !r.setAllows(e) {
				r.refuse(at, e, "Privileged steps are not allowed",
					"Target %s would run steps with all capabilities and devices of this machine. To allow it", t.Name)
			}
		case key == entitlementDevice:
			name, _, _ := strings.Cut(value, ",")
			if !r.allow.anyDevice && !slices.Contains(r.allow.devices, name) && !r.setAllows(e) {
				r.refuse(at, e, "The device is not allowed", "Target %s would give its steps the device %s. To allow it", t.Name, name)
			}
		default:
			r.errorf(at, "Invalid entitlement", "There is nothing called %q to be entitled to.%s", e,
				didYouMean(key, []string{entitlementNetworkHost, entitlementInsecure, entitlementDevice}))
		}
	}
	return t.Entitlements
}

// ssh are the SSH agents and keys. What is not absolute starts from the project,
// or as "~/" from the user's home.
func (r *resolver) ssh(t *wireTarget) map[string]SSH {
	var all map[string]SSH
	at := t.where("ssh")
	for _, s := range t.SSH {
		ssh := SSH{ID: s.ID}
		if ssh.ID == "" {
			ssh.ID = "default"
		}
		for _, p := range s.Paths {
			if p == "" {
				continue
			}
			if home, ok := r.req.LookupEnv("HOME"); ok && strings.HasPrefix(p, "~/") {
				p = filepath.Join(home, p[2:])
			}
			p = joinPath(r.base(at.Filename), p)
			if !t.from["ssh"].set {
				r.checkRead(at, fmt.Sprintf("The SSH agent or key %q of target %s", ssh.ID, t.Name), p)
			}
			ssh.Paths = append(ssh.Paths, p)
		}
		if len(ssh.Paths) == 0 && !r.allow.ssh && !r.fsUnchecked {
			r.refuse(at, allowSSH, "The SSH agent is not allowed", "Steps of target %s could use the keys of your SSH agent. To allow it", t.Name)
		}
		if all == nil {
			all = map[string]SSH{}
		}
		all[ssh.ID] = ssh
	}
	return all
}

// resources are the limits of steps.
func (r *resolver) resources(t *wireTarget) map[string]string {
	var limits map[string]string
	at := t.where("resources")
	for _, e := range t.Resources.ToEntries() {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case value == "":
			continue
		case name == "memory-swap" && value == "-1":
		case name == "memory" || name == "memory-swap":
			n, err := units.RAMInBytes(value)
			if err != nil || n <= 0 {
				continue // see checkResources
			}
			value = strconv.FormatInt(n, 10)
		case strings.HasPrefix(name, "cpuset-"):
		default:
			if n, err := strconv.ParseInt(value, 10, 64); err != nil || n <= 0 {
				r.errorf(at, "Invalid "+name, "%s must be a positive number.", value)
				continue
			}
		}
		if limits == nil {
			limits = map[string]string{}
		}
		limits[name] = value
	}
	return limits
}
