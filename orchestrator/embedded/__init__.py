"""One machine: Valkey, an S3 server, SQLite, Ray, the API and the dispatcher under one supervisor."""
