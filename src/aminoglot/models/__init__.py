"""The networks: plain torch, single device, read top to bottom. They know no file and no job."""
