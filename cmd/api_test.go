package cmd

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestPublicAPI checks the packages that other modules may import: no exported declaration names a
// type of an internal package, and no example imports one.
func TestPublicAPI(t *testing.T) {
	for dir, atLeast := range map[string]int{
		"../kwik": 100, "../integrity": 20, "../transfer": 60,
		"../transfer/serve": 5, "../transfer/source": 10, "../transfer/disk": 20,
	} {
		if checked := checkPublicAPI(t, dir); checked < atLeast {
			t.Errorf("%s: only %d exported declarations were found", dir, checked)
		}
	}
}

// checkPublicAPI checks one package and returns the number of its exported declarations.
func checkPublicAPI(t *testing.T, dir string) (checked int) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	for _, name := range names {
		isExample := strings.HasPrefix(filepath.Base(name), "example_")
		if strings.HasSuffix(name, "_test.go") && !isExample {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		internal := internalImports(file)
		if isExample && len(internal) > 0 {
			t.Errorf("%s imports %v", name, internal)
		}
		for _, decl := range file.Decls {
			for _, node := range exportedParts(decl) {
				checked++
				for _, s := range qualified(node) {
					if x := s.X.(*ast.Ident).Name; internal[x] != "" {
						at := fset.Position(s.Pos())
						t.Errorf("%v: exported, and names %s.%s of %s", at, x, s.Sel.Name, internal[x])
					}
				}
			}
		}
	}
	return checked
}

// qualified returns the names of other packages that a type shows: those of its unexported fields
// are left out.
func qualified(node ast.Node) (names []*ast.SelectorExpr) {
	ast.Inspect(node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.StructType:
			for _, field := range n.Fields.List {
				if !hidden(field) {
					names = append(names, qualified(field.Type)...)
				}
			}
			return false
		case *ast.SelectorExpr:
			if _, ok := n.X.(*ast.Ident); ok {
				names = append(names, n)
			}
		}
		return true
	})
	return names
}

// internalImports returns the internal packages that a file imports, by the name under which it
// knows them.
func internalImports(file *ast.File) map[string]string {
	names := make(map[string]string)
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		if !strings.Contains(path+"/", "/internal/") {
			continue
		}
		name := path[strings.LastIndexByte(path, '/')+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = path
	}
	return names
}

// hidden reports whether a field of a struct has only unexported names. Embedded fields are not
// hidden.
func hidden(field *ast.Field) bool {
	for _, name := range field.Names {
		if name.IsExported() {
			return false
		}
	}
	return len(field.Names) > 0
}

// exportedParts returns what a declaration shows to other packages: types, signatures of
// functions and methods, and types of variables.
func exportedParts(decl ast.Decl) (parts []ast.Node) {
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		if !decl.Name.IsExported() || (decl.Recv != nil && !ast.IsExported(receiver(decl))) {
			return nil
		}
		for _, list := range []*ast.FieldList{decl.Type.TypeParams, decl.Type.Params, decl.Type.Results} {
			if list == nil {
				continue
			}
			for _, field := range list.List {
				parts = append(parts, field.Type) // its name does not matter
			}
		}
		if len(parts) == 0 {
			parts = append(parts, decl.Name)
		}
	case *ast.GenDecl:
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					parts = append(parts, spec.Type)
				}
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() && spec.Type != nil {
						parts = append(parts, spec.Type)
					}
				}
			}
		}
	}
	return parts
}

// receiver returns the name of the type of which a function is a method.
func receiver(decl *ast.FuncDecl) string {
	typ := decl.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if ident, ok := typ.(*ast.Ident); ok {
		return ident.Name
	}
	return ""
}
