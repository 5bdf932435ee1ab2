"""Remote sources: downloaded before anything is read, and then found where a mounted one would be.

localize   every remote source of a run: list, download what is not in the cache, link
remote     what a scheme must tell: files with an identity, and a request for each
https, s3, hf   the schemes
cache      folders by URI and identity, complete or absent, one download for all who share them
download   one file: resumed, verified
client     requests: redirects, statuses, tries; guard: addresses that are never asked
names      which files of a listing a path or pattern means
secret     credentials; meter: progress
"""
