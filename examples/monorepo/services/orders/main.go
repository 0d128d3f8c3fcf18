// Command orders takes orders and gives them a number.
package main

import (
	"encoding/json"
	"net/http"
	"strconv"

	"example.com/monorepo/internal/httpd"
	"example.com/monorepo/internal/store"
)

var version = "devel"

type order struct {
	SKU   string `json:"sku"`
	Count int    `json:"count"`
}

func main() {
	var orders store.Store[order]
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&o); err != nil || o.Count < 1 {
			httpd.JSON(w, http.StatusBadRequest, "an order is {sku, count}")
			return
		}
		httpd.JSON(w, http.StatusCreated, map[string]int{"number": orders.Add(o)})
	})
	mux.HandleFunc("GET /orders/{number}", func(w http.ResponseWriter, r *http.Request) {
		number, err := strconv.Atoi(r.PathValue("number"))
		o, ok := orders.Get(number)
		if err != nil || !ok {
			http.NotFound(w, r)
			return
		}
		httpd.JSON(w, http.StatusOK, o)
	})
	httpd.Serve("orders", version, ":8080", mux)
}
