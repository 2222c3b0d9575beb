package main

import "fmt"

func main() {
	fmt.Println("Hello from an image with one file.")
}
