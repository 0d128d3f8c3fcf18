package main

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

func plotFile(series, moment string) string {
	return series + "-" + strings.ReplaceAll(moment, " ", "-") + ".svg"
}

// inks tell tools apart, the same one everywhere.
var inks = map[string]color.Color{
	"zbuild":          color.RGBA{R: 0xc0, G: 0x39, B: 0x2b, A: 0xff},
	"BuildKit":        color.RGBA{R: 0x22, G: 0x66, B: 0xaa, A: 0xff},
	"BuildKit + load": color.RGBA{R: 0x7f, G: 0xb2, B: 0xdd, A: 0xff},
	bakePeer:          color.RGBA{R: 0x22, G: 0x66, B: 0xaa, A: 0xff},
	"buildah":         color.RGBA{R: 0x88, G: 0x88, B: 0x88, A: 0xff},
}

// plotSeries draws a moment of a series on logarithmic axes: a straight line
// that rises one decade a decade is linear growth.
func plotSeries(s *series, moment, name string) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s: %s", s.Title, moment)
	p.X.Label.Text, p.Y.Label.Text = s.Unit, "seconds"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for _, tool := range []string{"zbuild", "BuildKit", "BuildKit + load", "buildah", bakePeer} {
		var at plotter.XYs
		for _, point := range s.Points {
			if seconds := point.Seconds[moment][tool]; len(seconds) > 0 {
				at = append(at, plotter.XY{X: float64(point.Size), Y: typical(moment, seconds)})
			}
		}
		if len(at) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(at)
		if err != nil {
			return err
		}
		line.Color, line.Width = inks[tool], vg.Points(1.5)
		dots.Color, dots.Shape = inks[tool], draw.CircleGlyph{}
		p.Add(line, dots)
		p.Legend.Add(tool, line, dots)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return p.Save(14*vg.Centimeter, 9*vg.Centimeter, name)
}
