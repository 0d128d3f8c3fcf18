package config

import (
	"context"

	"github.com/hashicorp/hcl/v2"
)

func (l *loader) diagnose(_ context.Context, diags hcl.Diagnostics) {
	l.diags = append(l.diags, diags...)
}
