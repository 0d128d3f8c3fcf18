package scaffold

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// Convert gives the text of a zbuild.hcl that says what an evaluated project
// does, given what bake --print shows of it. The comment comes first, each of its
// lines as a comment.
func Convert(comment string, printed []byte) ([]byte, error) {
	var project struct {
		Group  map[string]map[string]json.RawMessage `json:"group"`
		Target map[string]map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(printed, &project); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for line := range strings.Lines(comment) {
		b.WriteString("# " + strings.TrimRight(line, "\n") + "\n")
	}
	if err := writeBlocks(&b, "group", project.Group); err != nil {
		return nil, err
	}
	if err := writeBlocks(&b, "target", project.Target); err != nil {
		return nil, err
	}
	return hclwrite.Format(b.Bytes()), nil
}

func writeBlocks(b *bytes.Buffer, kind string, blocks map[string]map[string]json.RawMessage) error {
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		file := hclwrite.NewEmptyFile()
		body := file.Body().AppendNewBlock(kind, []string{name}).Body()
		attrs := blocks[name]
		for _, attr := range slices.Sorted(maps.Keys(attrs)) {
			typ, err := ctyjson.ImpliedType(attrs[attr])
			if err != nil {
				return err
			}
			value, err := ctyjson.Unmarshal(attrs[attr], typ)
			if err != nil {
				return err
			}
			if value, err = cty.Transform(value, unescape); err != nil {
				return err
			}
			if isDefault(attr, value) {
				continue
			}
			body.SetAttributeValue(attr, value)
		}
		b.WriteByte('\n')
		b.Write(file.Bytes())
	}
	return nil
}

// isDefault reports whether nothing is said by writing the attribute.
func isDefault(attr string, v cty.Value) bool {
	if v.IsNull() || v.Type() != cty.String {
		return v.IsNull()
	}
	return attr == "context" && v.AsString() == "." || attr == "dockerfile" && v.AsString() == "Dockerfile"
}

// unescape takes back what --print does so that its output is HCL: so does who
// writes HCL.
func unescape(_ cty.Path, v cty.Value) (cty.Value, error) {
	if v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return v, nil
	}
	return cty.StringVal(strings.NewReplacer("$${", "${", "%%{", "%{").Replace(v.AsString())), nil
}
