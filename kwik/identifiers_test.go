package kwik

import "fmt"

func ExampleStreamID() {
	fmt.Println(StreamID(4).isAggregate(), firstAggregateStreamID.isAggregate(), (firstAggregateStreamID - 1).isAggregate())
	// Output: false true false
}
