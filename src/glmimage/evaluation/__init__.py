"""Measuring pictures: is the text right, and is the design as asked?"""
