"""From Kafka to `execute`: the client, decoding, the batch loop, offsets and watermarks."""
