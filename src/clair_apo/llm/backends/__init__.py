"""The models that answer requests, and the HTTP below them.

select              the mode of a spec -> a model that answers later
http                a server: many requests at once, on an event loop
rate_limits         how many of them at once and per minute
server_health       is the server at fault or the request?
batch_api           the Batch API: files of requests, answered within a day
batch_client        its endpoints
batch_files         its files
batch_admin         list, cancel and forget batches
vllm_server         starts `vllm serve` for a folder, and stops it
server_watch        the script that ends it when the run is gone
vllm_files          files that `vllm run-batch` answers
local               a model in this process
scripted            a list of answers, for tests
connection          HTTP clients: key, proxy, certificates
http_errors         an error of the HTTP client -> whose fault it is
transport_errors    errors of the libraries below it, in words
"""
