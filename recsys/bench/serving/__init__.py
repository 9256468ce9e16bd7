"""The same small ranker behind the service and behind its peers, under the same load."""
