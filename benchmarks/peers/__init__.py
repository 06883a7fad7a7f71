"""The same work by hesscope and by other tools: products, time, memory and the error reached."""
