package kwik

import "fmt"

func ExampleStreamID() {
	fmt.Println(StreamID(4).IsAggregate(), FirstAggregateStreamID.IsAggregate(), (FirstAggregateStreamID - 1).IsAggregate())
	// Output: false true false
}
